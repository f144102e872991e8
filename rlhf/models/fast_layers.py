"""Layers with the outputs that they have anyway and gradients in fewer passes over memory.

`speed_up` switches them on in a model of any architecture: layers that it does not know stay as they are.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn


def speed_up(model: nn.Module) -> int:
    """Give a model's RMS norms a gradient of their own; returns how many.

    The model's outputs, state and saved files do not change. A norm is known by what it computes in float32:
    states over their root mean square, times its one weight. Gemma's, which add 1 to the weight, and all that
    are not on a CPU stay as they are.
    """
    known = [module for module in model.modules() if _is_rms_norm(module)]
    for module in known:
        kind: Any = type(module)
        module.__class__ = _with_own_gradient(kind)
    return len(known)


def _is_rms_norm(module: nn.Module) -> bool:
    names = [name for name, _ in module.named_parameters()]
    if names != ["weight"] or not hasattr(module, "variance_epsilon") or isinstance(module, _OwnGradient):
        return False
    weight = module.weight
    if weight.ndim != 1 or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return False
    states = torch.randn(3, len(weight), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = _RmsNorm.apply(states, weight, module.variance_epsilon)
        return torch.equal(ours, module(states))


class _OwnGradient:
    """What an RMS norm becomes: its forward pass as it is, and a gradient in four passes, not a dozen."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        module: Any = self
        plain = states.dtype == module.weight.dtype and states.device.type == "cpu"
        if not plain or states.dtype not in (torch.float32, torch.float64):
            return super().forward(states)  # type: ignore[misc]
        return _RmsNorm.apply(states, module.weight, module.variance_epsilon)


@functools.cache
def _with_own_gradient(kind: type) -> type:
    return type(kind.__name__, (_OwnGradient, kind), {})


class _RmsNorm(torch.autograd.Function):
    """weight * states / rms(states), [..., width], by transformers' own operations, in their order."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(states, weight, scale)
        return weight * (states * scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        states, weight, scale = ctx.saved_tensors
        width = len(weight)
        gradient = gradients[0].reshape(-1, width)
        flat, scale = states.reshape(-1, width), scale.reshape(-1, 1)
        # A layer norm about a mean of 0 has this gradient but for one term, which is added again.
        by_states, by_weight, _ = torch.ops.aten.native_layer_norm_backward(
            gradient,
            flat,
            [width],
            torch.zeros_like(scale),
            scale,
            weight,
            None,
            [True, ctx.needs_input_grad[1], False],
        )
        by_states.addcmul_(scale, torch.mv(gradient, weight).unsqueeze(-1), value=1 / width)
        return by_states.view_as(states), by_weight, None
