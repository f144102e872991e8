"""The rewards of PPO: what a reward may be, its name, and its scores of sampled episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from transformers import PreTrainedModel

from rlhf.data.errors import DataError
from rlhf.models.adapters import Adapters
from rlhf.models.batches import Batch, last_positions, right_pad, token_batches
from rlhf.models.logprobs import hidden_states, sequence_scores
from rlhf.models.policy import Policy
from rlhf.models.reward_model import RewardModel, score
from rlhf.models.settled import UNSETTLED, Settled
from rlhf.models.template import Prompt, Row, answered, same_template, template_of

Scorer = Callable[[Sequence[Row], Sequence[str]], list[float]]  # (rows, completions) -> scores
RewardFunction = Callable[[list[Prompt], list[str]], Sequence[float]]  # (prompts, completions) -> scores


@dataclass
class RewardAdapter:
    """A reward model that consists of LoRA adapters and a head on the backbone that the policy starts from.

    Attributes:
        adapters: those on the policy's body.
        head: [1, width]; shift: the constant that is taken off, so that references score 0 on average.
    """

    adapters: Adapters
    head: torch.Tensor
    shift: float = 0.0


class OnBackbone:
    """A `RewardAdapter` in its place on the policy's backbone.

    Args:
        name: of its adapters there.
    """

    def __init__(self, backbone: Any, name: str, reward: RewardAdapter) -> None:
        if backbone is None:
            raise DataError("a RewardAdapter needs the backbone of a policy with adapters")
        backbone.put(name, reward.adapters)
        self.backbone, self.name, self.reward = backbone, name, reward
        self.head, self.shift = reward.head.detach().float(), reward.shift

    def scores(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Scores at the last real token of each right-padded row, [rows]."""
        with self.backbone.using(self.name):
            states = hidden_states(self.backbone.model, ids, last_positions(ids, lengths), lengths)
        with torch.autocast(ids.device.type, enabled=False):
            return (states.float() @ self.head.to(states.device).T).squeeze(-1) - self.shift

    def scorer(self, policy: Policy, budget: int) -> Scorer:
        """What scores texts as the policy's template encodes them.

        Args:
            budget: tokens, padding included, that go through the backbone at a time.
        """

        @torch.no_grad()
        def score_texts(rows: Sequence[Row], completions: Sequence[str]) -> list[float]:
            self.backbone.model.eval()
            encoded, _ = answered(policy.template, rows, completions, policy.context, sampled=True)
            scores, device = [0.0] * len(encoded), self.backbone.model.device
            for group in token_batches([len(ids) for ids in encoded], budget):
                ids, lengths = right_pad([encoded[i] for i in group], policy.pad)
                values = self.scores(ids.to(device), lengths.to(device))
                for i, value in zip(group, values.tolist(), strict=True):
                    scores[i] = value
            return scores

        return score_texts


Reward: TypeAlias = PreTrainedModel | RewardModel | RewardAdapter | RewardFunction


def named_rewards(
    rewards: Sequence[Reward], tokenizer: Any, settled: Settled = UNSETTLED
) -> dict[str, Reward]:
    """Rewards by name: a function's own name, `model` for a model; a second of the same name gets a number.

    A `RewardModel` on the policy's tokenizer and template becomes its bare model, which reads the policy's
    ids. Under another template it would read turns that are not marked as those that it learnt from.

    Args:
        tokenizer, settled: of the policy.
    """
    template = template_of(tokenizer, settled.template, settled.arguments)
    named: dict[str, Reward] = {}
    for reward in rewards:
        name = (
            "model"
            if isinstance(reward, PreTrainedModel | RewardModel | RewardAdapter)
            else getattr(reward, "__name__", "function")
        )
        taken = sum(key == name or key.startswith(f"{name}_") for key in named)
        if (
            isinstance(reward, RewardModel)
            and reward.tokenizer.get_vocab() == tokenizer.get_vocab()
            and same_template(reward.template, template)
        ):
            reward = reward.model
        named[f"{name}_{taken + 1}" if taken else name] = reward
    return named


def model_scores(rewards: Mapping[str, Any], batch: Batch) -> torch.Tensor:
    """Scores by the reward models that read the policy's ids, NaN by the other rewards, [rewards, rows]."""
    scores = torch.full((len(rewards), len(batch.ids)), math.nan)
    for k, reward in enumerate(rewards.values()):
        if isinstance(reward, PreTrainedModel):
            scores[k] = sequence_scores(reward, batch.ids, batch.lengths).cpu()
        elif isinstance(reward, OnBackbone):
            scores[k] = reward.scores(batch.ids, batch.lengths).cpu()
    return scores


def function_scores(
    rewards: Mapping[str, Any],
    rows: list[Row],
    completions: list[str],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> dict[int, Sequence[float]]:
    """Scores by functions and by models on another tokenizer: index of the reward -> [completions].

    Args:
        autocast: for the models; a function chooses its own arithmetic.

    Raises:
        DataError: a function did not return one number for each completion.
    """
    scores: dict[int, Sequence[float]] = {}
    for k, (name, reward) in enumerate(rewards.items()):
        if isinstance(reward, PreTrainedModel | OnBackbone):
            continue
        if isinstance(reward, RewardModel):
            with autocast():
                scores[k] = score(reward, rows, completions)
        else:
            values = reward([row.get("messages") or row["prompt"] for row in rows], completions)
            try:
                scores[k] = [float(value) for value in values]
            except (TypeError, ValueError):
                raise DataError(
                    f"the reward {name} gave {str(values)[:60]!r}; it must give one number a completion"
                ) from None
        if len(scores[k]) != len(completions):
            raise DataError(
                f"the reward {name} gave {len(scores[k])} scores for {len(completions)} completions"
            )
    return scores
