"""Networks that processes share under FSDP: whole while episodes go through them, parts for the optimiser.

By itself FSDP gathers weights and sums gradients in every forward and backward pass. Here each process makes
another number of passes, so the processes would wait for each other for ever.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from rlhf.compute import part_of


def sharded(networks: nn.Module) -> bool:
    """Whether each process keeps only its part of the networks."""
    return hasattr(networks, "unshard")


def gather(networks: Any) -> None:
    """Have every process hold the whole networks; all processes must call it. No-op unless sharded."""
    if sharded(networks):
        networks.set_reshard_after_backward(False)
        networks.unshard()


def scatter(networks: Any) -> None:
    """Go back to this process's part of the networks and of their gradients. No-op unless sharded."""
    if not sharded(networks):
        return
    gradients = {}
    for name, p in networks.named_parameters():
        if p.grad is not None:
            gradients[name], p.grad = p.grad, None
    networks.reshard()
    for name, p in networks.named_parameters():
        if name in gradients:
            p.grad = part_of(gradients[name], p)


def unsharded(model: Any) -> Any:
    """A plain copy of a model that was sharded and is whole now, for whoever saves it."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    copied = type(model)(model.config).to(model.dtype)
    copied.load_state_dict(weights)
    copied.generation_config = model.generation_config
    return copied
