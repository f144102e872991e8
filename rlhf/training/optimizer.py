"""Muon for the hidden matrices, AdamW for the rest, as one optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


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
            torch.optim.Muon(hidden, lr=muon_lr, weight_decay=weight_decay),
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
