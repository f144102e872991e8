"""SFT and the reward model by LoRA, in bfloat16, and with activations computed twice; exact resume of all."""

# pytest finds the fixture `base` by the name of an argument:
# ruff: noqa: F401, F811

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_base import COMPARISONS, DEMONSTRATIONS, PROMPTS, base
from tiny_ppo import Stop

from rlhf.compute import deterministic
from rlhf.data.errors import DataError
from rlhf.models.adapters import add_adapters
from rlhf.models.policy import load_policy, save_model
from rlhf.models.reward_model import load_reward, reward_from_policy, score, shift_to_references
from rlhf.models.scratch import new_model
from rlhf.models.template import as_row
from rlhf.settings import Lora
from rlhf.training import loop as training
from rlhf.training.checkpoints import last_checkpoint
from rlhf.training.reward import accuracy, train_reward
from rlhf.training.sft import sft, validation_loss


def weights(model: Any) -> dict[str, torch.Tensor]:
    """A copy of a model's weights."""
    return {name: p.detach().clone() for name, p in model.state_dict().items()}


def run_sft(
    start: Path,
    folder: Path,
    *,
    lora: bool = True,
    dropout: float = 0.1,
    dtype: str = "float32",
    **more: Any,
) -> Any:
    """SFT as its stage does it; returns policy and curve."""
    deterministic(0, 1)
    policy = load_policy(start, dtype)
    if lora:
        policy.adapters = add_adapters(policy.model, Lora(rank=4, dropout=dropout))
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "save_every": 4} | more
    return policy, sft(policy, DEMONSTRATIONS, checkpoints=folder, seed=0, **settings)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """An SFT policy of adapters on the base, in either type of weights."""
    folder = tmp_path_factory.mktemp("tuned") / "sft"
    policy, _ = run_sft(base, folder.parent / "checkpoints", dtype=request.param, epochs=6)
    save_model(policy, folder)
    return folder


def run_reward(start: Path, folder: Path, **more: Any) -> Any:
    """The reward model as its stage trains it; returns it and its curve."""
    deterministic(0, 1)
    reward = reward_from_policy(start, 0)
    settings = {"epochs": 1.6, "batch_size": 8, "learning_rate": 1e-2, "save_every": 4} | more
    return reward, train_reward(reward, COMPARISONS, checkpoints=folder, seed=0, **settings)


# ---- what is learnt ----


def test_sft_by_lora_learns_and_leaves_the_base(base: Path, tuned: Path) -> None:
    start, policy = load_policy(base, "bfloat16"), load_policy(tuned)
    assert validation_loss(policy, DEMONSTRATIONS) < validation_loss(start, DEMONSTRATIONS) - 0.5
    inside = {name.replace(".base_layer", ""): p for name, p in policy.model.state_dict().items()}
    there = load_policy(base, policy.settled.dtype).model.state_dict()
    assert all(torch.equal(p, inside[name]) for name, p in there.items())
    assert {p.dtype for name, p in inside.items() if "lora" in name} == {torch.float32}


def test_a_reward_model_by_lora_learns_and_comes_back_with_its_shift(tuned: Path, tmp_path: Path) -> None:
    reward, curve = run_reward(tuned, tmp_path / "checkpoints", epochs=5)
    assert curve[-1]["loss"] < 0.3
    assert accuracy(reward, COMPARISONS)["all"]["accuracy"] > 0.9
    before = reward_from_policy(tuned, 0).model.state_dict()
    moved = {n for n, p in reward.model.state_dict().items() if not torch.equal(p, before[n])}
    assert "score.weight" in moved
    assert all("lora_" in name for name in moved - {"score.weight"})
    shift_to_references(reward, DEMONSTRATIONS)
    save_model(reward, tuned.parent / "reward")
    loaded = load_reward(tuned.parent / "reward")
    texts = [row["completion"] for row in DEMONSTRATIONS]
    scores = score(loaded, DEMONSTRATIONS, texts)
    assert scores == score(reward, DEMONSTRATIONS, texts)
    assert abs(sum(scores) / len(scores)) < 1e-4
    assert len(set(scores)) > len(scores) // 2  # scores in bfloat16 would tie


def test_training_all_weights_is_in_float32_whatever_the_base_is_in(base: Path, tmp_path: Path) -> None:
    policy, _ = run_sft(base, tmp_path / "checkpoints", lora=False, dtype="bfloat16", epochs=0.2)
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    save_model(policy, tmp_path / "sft")
    assert json.loads((tmp_path / "sft/policy.json").read_text())["dtype"] == "float32"
    stored = load_file(tmp_path / "sft/model.safetensors")
    assert all(torch.equal(p, policy.model.state_dict()[name]) for name, p in stored.items())


@pytest.mark.parametrize("run", [run_sft, run_reward])
def test_activations_computed_twice_give_the_same_bits(
    run: Callable[..., Any], tuned: Path, base: Path, tmp_path: Path
) -> None:
    # A last layer that is kept works on the learnt tokens alone, so its dropout draws other numbers.
    start, more = (tuned, {}) if run is run_reward else (base, {"dropout": 0.0})
    kept, _ = run(start, tmp_path / "kept", epochs=0.6, **more)
    twice, _ = run(start, tmp_path / "twice", epochs=0.6, gradient_checkpointing=True, **more)
    assert not twice.model.is_gradient_checkpointing
    for name, p in weights(kept.model).items():
        torch.testing.assert_close(twice.model.state_dict()[name], p, atol=1e-5, rtol=1e-4)


def test_bfloat16_is_near_float32_and_weights_stay_in_float32(base: Path, tmp_path: Path) -> None:
    single, curve = run_sft(base, tmp_path / "fp32", lora=False, learning_rate=1e-3)
    mixed, again = run_sft(base, tmp_path / "bf16", lora=False, learning_rate=1e-3, precision="bf16")
    assert {p.dtype for p in mixed.model.parameters()} == {torch.float32}
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in curve], rel=0.01)
    assert [row["loss"] for row in again] != [row["loss"] for row in curve]
    assert validation_loss(mixed, DEMONSTRATIONS) == pytest.approx(
        validation_loss(single, DEMONSTRATIONS), rel=0.02
    )


# ---- exact resume ----


@pytest.mark.parametrize("run", ["sft", "all weights", "reward"])
def test_a_killed_training_ends_with_the_same_bits(
    run: str, base: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = json.loads((tuned / "policy.json").read_text())["dtype"]
    precision = {"float32": "fp32", "bfloat16": "bf16"}[dtype]
    train: dict[str, Callable[[Path], Any]] = {
        "sft": lambda folder: run_sft(base, folder, dtype=dtype, precision=precision),
        "all weights": lambda folder: run_sft(base, folder, dtype=dtype, lora=False, precision=precision),
        "reward": lambda folder: run_reward(tuned, folder, precision=precision),
    }
    whole, curve = train[run](tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(training, "CurveLog", lambda c, real=training.CurveLog: _stopping(real(c), Stop(10)))
        with pytest.raises(KeyboardInterrupt):
            train[run](tmp_path / "cut")
    checkpoint = last_checkpoint(tmp_path / "cut")
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-8"
    if run != "all weights":
        learning = load_file(checkpoint / "learning.safetensors")
        assert {p.dtype for p in learning.values()} == {torch.float32}
        assert not (checkpoint / "model.safetensors").exists()
    resumed, again = train[run](tmp_path / "cut")
    for name, p in weights(whole.model).items():
        assert torch.equal(p, resumed.model.state_dict()[name]), name
    assert again == curve


def test_a_checkpoint_of_other_adapters_is_refused(base: Path, tmp_path: Path) -> None:
    run_sft(base, tmp_path)
    policy = load_policy(base)
    policy.adapters = add_adapters(policy.model, Lora(rank=2))
    with pytest.raises(DataError, match=r"checkpoint-\d+ is of another model than this one; remove it"):
        sft(
            policy,
            DEMONSTRATIONS,
            checkpoints=tmp_path,
            seed=0,
            epochs=3,
            batch_size=8,
            learning_rate=1e-3,
            save_every=4,
        )


# ---- what it takes on the disk ----


def test_the_models_of_a_run_take_at_most_1_3_times_the_base(base: Path, tmp_path: Path) -> None:
    """At the rank of 16 adapters are a tenth of a model of 3 M, and a hundredth of one of 600 M."""
    policy = load_policy(base)
    policy.model = new_model("3M", policy.tokenizer, 48)
    save_model(policy, tmp_path / "pretrained")
    policy = load_policy(tmp_path / "pretrained")
    policy.adapters = add_adapters(policy.model, Lora(rank=4))
    save_model(policy, tmp_path / "sft")
    save_model(reward_from_policy(tmp_path / "sft", 0), tmp_path / "reward")
    save_model(load_policy(tmp_path / "sft"), tmp_path / "ppo")
    size = {
        folder.name: sum(file.stat().st_size for file in folder.iterdir()) for folder in tmp_path.iterdir()
    }
    assert len(size) == 4
    assert sum(size.values()) <= 1.3 * size["pretrained"]
    assert size["pretrained"] > 10_000_000


def _stopping(bookkeeping: Any, stop: Stop) -> Any:
    bookkeeping.on_step_end = stop.on_step_end
    return bookkeeping
