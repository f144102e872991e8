"""Muon for the hidden matrices, AdamW for the rest, as one optimizer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, with one product for all matrices of a shape in place of one each.

    Of a small model the library's hundreds of small products take a seventh of the time of a training step.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params: list[torch.Tensor] = []
            grads: list[torch.Tensor] = []
            buffers: list[torch.Tensor] = []
            self._init_group(group, params, grads, buffers)
            updates = []
            for p, grad, buffer in zip(params, grads, buffers, strict=True):
                buffer.lerp_(grad, 1 - group["momentum"])
                updates.append(grad.lerp(buffer, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
            for some in _of_one_shape(updates):
                steps = _orthogonal(torch.stack([_wide(updates[i]) for i in some]), group)
                for i, step in zip(some, steps, strict=True):
                    rows, columns = params[i].shape
                    rate = group["lr"] * math.sqrt(max(1, rows / columns))
                    params[i].add_(step.T if rows > columns else step, alpha=-rate)


def _wide(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix or its transpose, whichever has no more rows than columns."""
    return matrix.T if len(matrix) > matrix.shape[1] else matrix


def _of_one_shape(matrices: list[torch.Tensor]) -> list[list[int]]:
    """The numbers of the matrices of each shape, where a matrix and its transpose are of one."""
    shapes: dict[torch.Size, list[int]] = {}
    for i, matrix in enumerate(matrices):
        shapes.setdefault(_wide(matrix).shape, []).append(i)
    return list(shapes.values())


def _orthogonal(matrices: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """Matrices [matrices, rows, columns] with singular values brought near 1 by Newton-Schulz iterations.

    In bfloat16, as in the library.
    """
    a, b, c = group["ns_coefficients"]
    x = matrices.bfloat16()
    x = x / x.flatten(1).norm(dim=1).clamp(min=group["eps"])[:, None, None]
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class MuonAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, `torch.optim.Muon`) for the hidden matrices, AdamW for embeddings and norms.

    For schedulers and checkpoints it is one optimiser, with one list of parameter groups and one state.

    Args:
        model: embeddings are recognised by name, hidden matrices by having two dimensions.
        muon_lr: peak rate of the matrices; adamw_lr: of the rest.
    """

    def __init__(self, model: nn.Module, *, muon_lr: float, adamw_lr: float, weight_decay: float) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        hidden = [p for name, p in named if p.ndim == 2 and "embed" not in name and "lm_head" not in name]
        rest = [p for name, p in named if all(p is not q for q in hidden)]
        self.parts = (
            Muon(hidden, lr=muon_lr, weight_decay=weight_decay),
            torch.optim.AdamW(rest, lr=adamw_lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay),
        )
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Share the group objects with the parts, because a scheduler writes learning rates into them."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()
