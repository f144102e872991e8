"""SFT computes TRL's loss, gradients and log from the learnt tokens alone."""

# pytest finds the fixture `base` by the name of an argument:
# ruff: noqa: F401, F811

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from small_base import DEMONSTRATIONS, base

from rlhf.compute import deterministic
from rlhf.models.adapters import add_adapters
from rlhf.models.policy import load_policy
from rlhf.settings import Lora
from rlhf.training import sft as module


def trained(base: Path, folder: Path, lora: bool) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    deterministic(0, 1)
    policy = load_policy(base)
    if lora:
        policy.adapters = add_adapters(policy.model, Lora(rank=2))
    rows = [row | {"split": "train"} for row in DEMONSTRATIONS]
    curve = module.sft(
        policy, rows, checkpoints=folder, seed=0, epochs=1.0, batch_size=8, learning_rate=1e-3, save_every=1
    )
    return curve, dict(policy.model.state_dict())


@pytest.mark.parametrize("lora", [False, True])
def test_loss_log_and_weights_are_those_of_trls_own_forward(
    lora: bool, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, weights = trained(base, tmp_path / "ours", lora)
    monkeypatch.setattr(module, "reads_answers_only", lambda model: nullcontext())
    theirs, expected = trained(base, tmp_path / "theirs", lora)
    assert len(ours) == len(theirs) > 2
    assert {"loss", "grad_norm", "entropy", "mean_token_accuracy"} <= set(ours[0])
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-4, abs=1e-6)
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=1e-4, rtol=1e-3)


def test_a_copy_of_what_was_trained_computes_with_its_own_weights(base: Path, tmp_path: Path) -> None:
    deterministic(0, 1)
    policy = load_policy(base)
    rows = [row | {"split": "train"} for row in DEMONSTRATIONS[:8]]
    settings: dict[str, Any] = {"epochs": 1.0, "batch_size": 8, "learning_rate": 1e-3, "save_every": 1}
    module.sft(policy, rows, checkpoints=tmp_path, seed=0, **settings)
    assert "forward" not in vars(policy.model)
