"""The networks that learn in PPO: policy and value as one module, and which of their weights learn."""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import nn

from rlhf.compute import autocast
from rlhf.data.errors import DataError
from rlhf.models.batches import Batch
from rlhf.models.logprobs import chosen_logprobs, head_scores, hidden_states


class PolicyAndValue(nn.Module):
    """The networks that learn, as one module for one optimiser.

    Args:
        policy: the causal language model.
        value: a one-label sequence-classification model, or None for a head on the policy's hidden states.
        dtype: of the arithmetic.
    """

    def __init__(self, policy: Any, value: Any | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.policy, self.value, self.dtype = policy, value, dtype
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

        What `policy` or `value` leaves out is zero; with one backbone the value needs the policy.
        """
        logprobs = entropy = values = torch.zeros(batch.targets.shape, device=batch.ids.device)
        with autocast(batch.ids.device, self.dtype):
            if policy:
                states = hidden_states(self.policy, batch.ids, batch.before)
                logprobs, entropy = chosen_logprobs(
                    self.policy, states, batch.targets, temperature, with_entropy=with_entropy
                )
            if value and self.value is None:
                values = self.value_head(states.float()).squeeze(-1).float()
            elif value:
                values = head_scores(self.value, hidden_states(self.value, batch.ids, batch.before))
        return logprobs, entropy, values

    def learning(self) -> dict[str, nn.Parameter]:
        """The weights that learn, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Have both networks compute their layers a second time for the gradient."""
        for network in (self.policy, self.value):
            if network is not None:
                network.gradient_checkpointing_enable(*args, **kwargs)


def freeze(model: Any, layers: int) -> None:
    """Keep the embeddings and the first `layers` layers of a model as they are."""
    for part in _frozen_parts(model, layers):
        part.requires_grad_(False)


def adapted(policy: Any, peft_config: Any, layers: int) -> Any:
    """The `peft` model of a policy whose first `layers` layers get no adapters.

    `peft` makes an adapter learn, in whatever layer it is, each time it is set or switched on again. So a
    layer stays as it is only if it has no adapter.

    Raises:
        DataError: nothing is left to adapt, or the configuration makes other weights of those layers learn.
    """
    from peft import get_peft_model

    inside = {m for part in _frozen_parts(policy, layers) for m in part.modules()}
    if inside:
        peft_config, names = copy.copy(peft_config), [n for n, m in policy.named_modules() if m in inside]
        before = getattr(peft_config, "exclude_modules", None) or []
        if isinstance(before, str):
            peft_config.exclude_modules = "|".join([f"(?:{before})", *map(re.escape, names)])
        else:
            peft_config.exclude_modules = {*before, *names}
    try:
        model = get_peft_model(policy, peft_config)
    except ValueError as error:
        raise DataError(f"peft_config and freeze_layers {layers} leave nothing to learn: {error}") from None
    if any(p.requires_grad for part in _frozen_parts(policy, layers) for p in part.parameters()):
        raise DataError(f"freeze_layers is {layers}, and the peft_config has weights of those layers learn")
    return model


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
