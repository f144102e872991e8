"""Who plays which role in PPO: the networks that learn, the frozen reference, the rewards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from rlhf.compute import arithmetic, cast_frozen_once, compute_in_float32
from rlhf.data.errors import DataError
from rlhf.models.attention import use_short_attention, uses_short_attention
from rlhf.models.batches import Batch
from rlhf.models.logprobs import response_logprobs
from rlhf.models.policy import Policy, drop_borrowed_forwards, true_copy
from rlhf.models.reward_model import RewardModel
from rlhf.rl.backbone import VALUE, Backbone
from rlhf.rl.config import PPOConfig
from rlhf.rl.networks import PolicyAndValue, ScoreHead, freeze, switch_dropout_off
from rlhf.rl.rewards import OnBackbone, Reward, RewardAdapter, Scorer


@dataclass
class Roles:
    """The roles of a run.

    Attributes:
        networks: the policy and the value network, which learn.
        reference: the frozen model of the KL penalty; the policy's own network if adapters learn.
        backbone: what the policy's adapters share with the other roles; None if all weights learn.
        rewards: by name.
        judges: reward models on the backbone that are no reward of the run.
    """

    networks: PolicyAndValue
    reference: Any
    backbone: Backbone | None
    rewards: dict[str, Any]
    judges: list[OnBackbone] = field(default_factory=list)

    @property
    def frozen(self) -> list[nn.Module]:
        """The models that do not learn and are not on the backbone."""
        models = [self.reference if self.backbone is None else None, *_models(self.rewards)]
        return [model for model in models if isinstance(model, nn.Module)]

    @property
    def judged(self) -> bool:
        """Whether a reward model is among the rewards, and not only functions."""
        return any(isinstance(reward, nn.Module | OnBackbone) for reward in _models(self.rewards))

    def reference_logprobs(self, batch: Batch, temperature: float) -> torch.Tensor:
        """Log-probabilities of a batch's response tokens under the reference, [tokens]."""
        if self.backbone is None:
            return response_logprobs(self.reference, batch, temperature)[0]
        with self.backbone.using(self.backbone.reference):
            return response_logprobs(self.reference, batch, temperature)[0]

    def adapter_scorer(self, reward: RewardAdapter, policy: Policy, budget: int) -> Scorer:
        """What scores texts by adapters on the backbone; those that are no reward of the run are put there.

        Args:
            budget: tokens, padding included, that go through the backbone at a time.
        """
        for placed in [*self.rewards.values(), *self.judges]:
            if isinstance(placed, OnBackbone) and placed.reward is reward:
                return placed.scorer(policy, budget)
        self.judges.append(OnBackbone(self.backbone, f"judge-{len(self.judges)}", reward))
        return self.judges[-1].scorer(policy, budget)


def assign_roles(
    policy: PreTrainedModel | PeftModel,
    value: PreTrainedModel | RewardAdapter | None,
    reference: PreTrainedModel | None,
    rewards: dict[str, Reward],
    peft_config: Any | None,
    args: PPOConfig,
) -> Roles:
    """Prepare the models for their roles: dropout off, frozen what does not learn, adapters on the backbone.

    Args:
        policy: with adapters, they learn, and the reference is a frozen copy of them.
        reference: None for a copy of the policy, or, with a `peft_config`, for the policy without adapters.

    Raises:
        DataError: roles that contradict each other.
    """
    model: Any = policy.get_base_model() if isinstance(policy, PeftModel) else policy
    for network in (model, reference, value, *_models(rewards)):
        if isinstance(network, nn.Module):
            drop_borrowed_forwards(network)
        if isinstance(network, PreTrainedModel) and uses_short_attention(model):
            use_short_attention(network)
        if isinstance(network, PreTrainedModel) and args.precision == "fp32":
            compute_in_float32(network, everywhere=True)
    backbone: Backbone | None = None
    if isinstance(policy, PeftModel) or peft_config is not None:
        if reference is not None:
            raise DataError("with adapters the reference is on the policy's backbone: give none")
        backbone = Backbone(policy if peft_config is None else _adapted(model, peft_config))
        if peft_config is None:
            backbone.keep_reference()
        backbone.learn(backbone.policy)
        reference = model
    elif any(isinstance(role, RewardAdapter) for role in (value, *rewards.values())):
        raise DataError("a RewardAdapter needs the backbone of a policy with adapters")
    dtype = arithmetic(args.precision, args.device, model.config.hidden_size)
    if isinstance(value, RewardAdapter):
        assert backbone is not None
        backbone.put(VALUE, value.adapters)
        networks = PolicyAndValue(model, ScoreHead(value.head, value.shift), dtype, backbone)
        networks.adapters_of_value = backbone.learn(VALUE)
    else:
        networks = PolicyAndValue(model, value, dtype, backbone)
    placed: dict[str, Any] = {
        name: OnBackbone(backbone, f"reward-{name}", reward) if isinstance(reward, RewardAdapter) else reward
        for name, reward in rewards.items()
    }
    for network in (model, value):
        if isinstance(network, PreTrainedModel):
            freeze(network, args.freeze_layers)
    roles = Roles(networks, reference or true_copy(model), backbone, placed)
    for network in (model, value, *roles.frozen):
        if isinstance(network, nn.Module):
            switch_dropout_off(network)
    for network in roles.frozen:
        network.requires_grad_(False).eval()
    if dtype != torch.float32:
        for network in (networks, *roles.frozen):
            cast_frozen_once(network)
    if not networks.learning_policy():
        raise DataError(f"the adapters and freeze_layers {args.freeze_layers} leave nothing to learn")
    return roles


def _adapted(policy: Any, peft_config: Any) -> Any:
    """The `peft` model of a policy."""
    try:
        return get_peft_model(policy, peft_config)
    except ValueError as error:
        raise DataError(f"peft_config does not fit the policy: {str(error)[:200]}") from None


def _models(rewards: dict[str, Any]) -> list[Any]:
    """The rewards, each `RewardModel` as its model."""
    return [reward.model if isinstance(reward, RewardModel) else reward for reward in rewards.values()]
