"""Rewards of PPO: by name, and what they say of sampled episodes."""

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
from rlhf.models.template import Prompt

RewardFunction = Callable[[list[Prompt], list[str]], Sequence[float]]


@dataclass
class RewardAdapter:
    """A reward model that is LoRA adapters and a head on the backbone that the policy starts from.

    Attributes:
        adapters: on the policy's body.
        head: [1, width]; shift: what makes references score 0 on average.
    """

    adapters: Adapters
    head: torch.Tensor
    shift: float = 0.0


Reward: TypeAlias = PreTrainedModel | RewardModel | RewardAdapter | RewardFunction


def named_rewards(rewards: Sequence[Reward]) -> dict[str, Reward]:
    """Rewards by name: a function's own, `model` for a model; a second of one name gets a number."""
    named: dict[str, Reward] = {}
    for reward in rewards:
        name = (
            "model"
            if isinstance(reward, PreTrainedModel | RewardModel | RewardAdapter)
            else getattr(reward, "__name__", "function")
        )
        taken = sum(key == name or key.startswith(f"{name}_") for key in named)
        named[f"{name}_{taken + 1}" if taken else name] = reward
    return named


def model_scores(rewards: dict[str, Reward], batch: Batch, policy: Any, adapter: Any) -> torch.Tensor:
    """Scores of the reward models that read the policy's ids, NaN for the others, [rewards, rows].

    Args:
        policy: the policy's network, whose backbone the reward adapters are on.
        adapter: the `peft` model that switches between them; None where there are none.
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
    prompts: list[Prompt],
    completions: list[str],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> dict[int, Sequence[float]]:
    """Scores by functions and by models on another tokenizer: number of the reward -> one a completion.

    Args:
        autocast: for the models; a function's arithmetic is its own business.

    Raises:
        DataError: a function gave something else than one number a completion.
    """
    found: dict[int, Sequence[float]] = {}
    for k, (name, reward) in enumerate(rewards.items()):
        if isinstance(reward, PreTrainedModel | RewardAdapter):
            continue
        if isinstance(reward, RewardModel):
            with autocast():
                found[k] = score(reward, prompts, completions)
        else:
            given = reward(prompts, completions)
            try:
                found[k] = [float(value) for value in given]
            except (TypeError, ValueError):
                raise DataError(
                    f"the reward {name} gave {str(given)[:60]!r}; it must give one number a completion"
                ) from None
        if len(found[k]) != len(completions):
            raise DataError(
                f"the reward {name} gave {len(found[k])} scores for {len(completions)} completions"
            )
    return found
