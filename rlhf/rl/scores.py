"""What the rewards of `rlhf.rl.trainer.PPOTrainer` say of sampled episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from transformers import PreTrainedModel

from rlhf.data.contracts import DataError
from rlhf.models.batches import Batch, last_positions
from rlhf.models.logprobs import hidden_states, sequence_scores
from rlhf.models.template import Prompt
from rlhf.rl.checks import Reward, RewardAdapter
from rlhf.training.reward import RewardModel, score


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
