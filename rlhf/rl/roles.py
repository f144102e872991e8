"""Who plays which role in PPO: the networks that learn, the frozen reference, the rewards."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from rlhf.compute import arithmetic
from rlhf.data.errors import DataError
from rlhf.models.batches import Batch
from rlhf.models.logprobs import response_logprobs
from rlhf.models.policy import drop_borrowed_forwards, true_copy
from rlhf.models.reward_model import RewardModel
from rlhf.rl.config import PPOConfig
from rlhf.rl.networks import PolicyAndValue, adapted, freeze, switch_dropout_off
from rlhf.rl.rewards import Reward, RewardAdapter


@dataclass
class Roles:
    """The roles of a run.

    Attributes:
        networks: the policy and the value network, which learn.
        reference: the frozen model of the KL penalty; the policy itself if adapters learn.
        adapter: the `peft` model around the policy; None if all weights learn.
        rewards: by name.
    """

    networks: PolicyAndValue
    reference: Any
    adapter: Any | None
    rewards: dict[str, Reward]

    @property
    def frozen(self) -> list[nn.Module]:
        """The models that do not learn; not a reference that is the policy without its adapters."""
        models = [self.reference if self.adapter is None else None, *_models(self.rewards)]
        return [model for model in models if isinstance(model, nn.Module)]

    def reference_logprobs(self, batch: Batch, temperature: float) -> torch.Tensor:
        """Log-probabilities of a batch's response tokens under the reference, [tokens]."""
        with nullcontext() if self.adapter is None else self.adapter.disable_adapter():
            return response_logprobs(self.reference, batch, temperature)[0]


def assign_roles(
    policy: PreTrainedModel,
    value: PreTrainedModel | None,
    reference: PreTrainedModel | None,
    rewards: dict[str, Reward],
    peft_config: Any | None,
    args: PPOConfig,
) -> Roles:
    """Prepare the models for their roles: dropout off, frozen what does not learn, adapters on the backbone.

    Args:
        reference: None for a copy of the policy, or, with a `peft_config`, for the policy without adapters.

    Raises:
        DataError: roles that contradict each other.
    """
    for model in (policy, reference, value, *_models(rewards)):
        if isinstance(model, nn.Module):
            switch_dropout_off(model)
            drop_borrowed_forwards(model)
    freeze(policy, args.freeze_layers)
    if value is not None:
        freeze(value, args.freeze_layers)
    adapter: Any = None
    if peft_config is None:
        if any(isinstance(reward, RewardAdapter) for reward in rewards.values()):
            raise DataError("a RewardAdapter needs the backbone of a policy with a peft_config")
        reference = reference or true_copy(policy)
    else:
        if reference is not None:
            raise DataError("with a peft_config the reference is the policy without adapters: give none")
        reference, adapter = policy, adapted(policy, peft_config, args.freeze_layers)
        _add_reward_adapters(adapter, rewards, args.device)
    dtype = arithmetic(args.precision, args.device, policy.config.hidden_size)
    roles = Roles(PolicyAndValue(policy, value, dtype), reference, adapter, rewards)
    for model in roles.frozen:
        model.requires_grad_(False).eval()
    return roles


def _models(rewards: dict[str, Reward]) -> list[Any]:
    """The rewards, each `RewardModel` as its model."""
    return [reward.model if isinstance(reward, RewardModel) else reward for reward in rewards.values()]


def _add_reward_adapters(adapter: Any, rewards: dict[str, Reward], device: torch.device) -> None:
    """Put the rewards that are adapters on the policy's backbone, switched off."""
    from peft import set_peft_model_state_dict

    for name, reward in rewards.items():
        if isinstance(reward, RewardAdapter):
            adapter.add_adapter(name, reward.adapters.config)
            set_peft_model_state_dict(adapter, reward.adapters.weights, adapter_name=name)
            reward.head = reward.head.to(device)
    adapter.set_adapter("default")
