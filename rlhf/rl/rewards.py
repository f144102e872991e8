"""The rewards of PPO: what a reward may be, its name, and its scores of sampled episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from transformers import PreTrainedModel

from rlhf.data.errors import DataError
from rlhf.models.adapters import Adapters
from rlhf.models.batches import Batch, last_positions
from rlhf.models.logprobs import hidden_states, sequence_scores
from rlhf.models.reward_model import RewardModel, score
from rlhf.models.template import Prompt, Row

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


Reward: TypeAlias = PreTrainedModel | RewardModel | RewardAdapter | RewardFunction


def named_rewards(rewards: Sequence[Reward], tokenizer: Any) -> dict[str, Reward]:
    """Rewards by name: a function's own name, `model` for a model; a second of the same name gets a number.

    A `RewardModel` on the policy's tokenizer becomes its bare model, which reads the policy's ids.
    """
    named: dict[str, Reward] = {}
    for reward in rewards:
        name = (
            "model"
            if isinstance(reward, PreTrainedModel | RewardModel | RewardAdapter)
            else getattr(reward, "__name__", "function")
        )
        taken = sum(key == name or key.startswith(f"{name}_") for key in named)
        if isinstance(reward, RewardModel) and reward.tokenizer.get_vocab() == tokenizer.get_vocab():
            reward = reward.model
        named[f"{name}_{taken + 1}" if taken else name] = reward
    return named


def model_scores(rewards: dict[str, Reward], batch: Batch, policy: Any, adapter: Any) -> torch.Tensor:
    """Scores by the reward models that read the policy's ids, NaN by the other rewards, [rewards, rows].

    Args:
        policy: the policy's network, with the backbone that reward adapters are on.
        adapter: the `peft` model that switches between adapters; None if there are none.
    """
    scores = torch.full((len(rewards), len(batch.ids)), math.nan)
    for k, (name, reward) in enumerate(rewards.items()):
        if isinstance(reward, PreTrainedModel):
            scores[k] = sequence_scores(reward, batch.ids, batch.lengths).cpu()
        elif isinstance(reward, RewardAdapter):
            adapter.set_adapter(name)
            states = hidden_states(policy, batch.ids, last_positions(batch.ids, batch.lengths))
            scores[k] = (states.float() @ reward.head.T).squeeze(-1).cpu() - reward.shift
            adapter.set_adapter("default")
    return scores


def function_scores(
    rewards: dict[str, Reward],
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
        if isinstance(reward, PreTrainedModel | RewardAdapter):
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
