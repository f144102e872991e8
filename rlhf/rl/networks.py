"""The networks that learn in PPO: policy and value as one module, and which of their weights learn."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from rlhf.compute import autocast
from rlhf.data.errors import DataError
from rlhf.models.batches import Batch
from rlhf.models.logprobs import chosen_logprobs, head_scores, hidden_states
from rlhf.rl.backbone import VALUE, Backbone


class ScoreHead(nn.Module):
    """A score of hidden states, in float32 whatever the arithmetic of the body is.

    Args:
        weight: [1, width]; shift: the constant that is taken off.
    """

    def __init__(self, weight: torch.Tensor, shift: float = 0.0) -> None:
        super().__init__()
        self.weight, self.shift = nn.Parameter(weight.detach().float().clone()), shift

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Scores, [states], of states [states, width]."""
        with torch.autocast(states.device.type, enabled=False):
            return (states.float() @ self.weight.T).squeeze(-1) - self.shift


class PolicyAndValue(nn.Module):
    """The networks that learn, as one module for one optimiser.

    Args:
        policy: the causal language model.
        value: a one-label sequence-classification model; the head of adapters on the policy's backbone; or
            None for a head on the policy's hidden states.
        dtype: of the arithmetic.
        backbone: the backbone that the policy's adapters share with others; None if all its weights learn.
    """

    def __init__(
        self,
        policy: Any,
        value: Any | None,
        dtype: torch.dtype,
        backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        self.policy, self.value, self.dtype, self.backbone = policy, value, dtype, backbone
        self.adapters_of_value: set[nn.Parameter] = set()
        if value is None:
            self.value_head = nn.Linear(policy.config.hidden_size, 1, dtype=torch.float32)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    def forward(
        self,
        batch: Batch,
        temperature: float,
        *,
        policy: bool = True,
        value: bool = True,
        with_entropy: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities, entropies and values at the response tokens, each [tokens].

        What `policy` or `value` leaves out is zero; a value head on the policy's states needs the policy.
        """
        logprobs = entropy = values = torch.zeros(batch.targets.shape, device=batch.ids.device)
        with autocast(batch.ids.device, self.dtype):
            if policy:
                states = hidden_states(self.policy, batch.ids, batch.before, batch.lengths)
                logprobs, entropy = chosen_logprobs(
                    self.policy, states, batch.targets, temperature, with_entropy=with_entropy
                )
            if value and self.value is None:
                with torch.autocast(states.device.type, enabled=False):
                    values = self.value_head(states.float()).squeeze(-1)
            elif value and isinstance(self.value, ScoreHead):
                assert self.backbone is not None
                with self.backbone.using(VALUE):
                    values = self.value(hidden_states(self.policy, batch.ids, batch.before, batch.lengths))
            elif value:
                values = head_scores(
                    self.value, hidden_states(self.value, batch.ids, batch.before, batch.lengths)
                )
        return logprobs, entropy, values

    def bodies(self) -> list[Any]:
        """The models that batches go through."""
        own = self.value is not None and not isinstance(self.value, ScoreHead)
        return [self.policy, self.value] if own else [self.policy]

    def learning(self) -> dict[str, nn.Parameter]:
        """The weights that learn, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def learning_policy(self) -> dict[str, nn.Parameter]:
        """The weights of the policy that learn, by name."""
        return {
            name: p
            for name, p in self.learning().items()
            if name.startswith("policy.") and p not in self.adapters_of_value
        }

    def learning_values(self) -> dict[str, nn.Parameter]:
        """The weights of a value network of its own that learn, by name."""
        return {
            name: p
            for name, p in self.learning().items()
            if name.startswith("value.") or p in self.adapters_of_value
        }

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **more: Any
    ) -> None:
        """Have both networks compute their layers a second time for the gradient."""
        options = {"use_reentrant": False} | (activation_checkpointing_kwargs or {})
        if self.backbone is not None:
            options |= {"use_reentrant": False, "context_fn": self.backbone.checkpoint_contexts}
        for network in (self.policy, self.value):
            if isinstance(network, PreTrainedModel):
                network.activation_checkpointing_enable(activation_checkpointing_kwargs=options, **more)

    def activation_checkpointing_disable(self) -> None:
        """Have both networks compute their layers once only."""
        for network in (self.policy, self.value):
            if isinstance(network, PreTrainedModel):
                network.activation_checkpointing_disable()


def freeze(model: Any, layers: int) -> None:
    """Keep the embeddings and the first `layers` layers of a model as they are."""
    for part in _frozen_parts(model, layers):
        part.requires_grad_(False)


def switch_dropout_off(model: nn.Module) -> None:
    """Set every dropout of a model to 0 (Huang et al. 2024): with dropout the first ratio would not be 1."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if hasattr(model, "config") and hasattr(model.config, "attention_dropout"):
        model.config.attention_dropout = 0.0


def _frozen_parts(model: Any, layers: int) -> list[nn.Module]:
    """The embeddings and the first `layers` layers; nothing for 0."""
    if not layers:
        return []
    blocks = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList)]
    blocks = [m for m in blocks if len(m) == model.config.num_hidden_layers]
    if not blocks or layers > len(blocks[0]):
        raise DataError(f"freeze_layers is {layers}; the model has {model.config.num_hidden_layers} layers")
    return [model.get_input_embeddings(), *blocks[0][:layers]]
