"""The networks that learn in `rlhf.rl.trainer.PPOTrainer`, the precision and the cost of their arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rlhf.compute import autocast
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

        What `policy` or `value` leaves out is zero; on one backbone the value needs the policy.
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

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Have both networks compute their layers again for the gradient."""
        for network in (self.policy, self.value):
            if network is not None:
                network.gradient_checkpointing_enable(*args, **kwargs)


def micro_batch_overhead(device: torch.device, width: int) -> int | None:
    """What one more micro-batch costs for a model of this width on this device, in tokens.

    On CPUs it is starting the operations and adding up the weights' gradients once more (measured in
    dev/LOG.md). None where micro-batches had best be few and full: narrow models and GPUs spend their time on
    starting operations.
    """
    return 64 if device.type == "cpu" and width >= 128 else None
