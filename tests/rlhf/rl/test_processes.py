"""SFT, the reward model and PPO in two processes, with whole models (DDP) and shared ones (FSDP), learn what
one process does and resume exactly."""

# pytest finds the fixture `base` by the name of an argument:
# ruff: noqa: F401, F811

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PATIENCE, ROOT, Quiet, free_port
from safetensors.torch import load_file
from small_base import COMPARISONS, DEMONSTRATIONS, base
from tiny_ppo import updates
from two_processes import SETTINGS, fine_tune, learn_rewards, policy_optimisation, small_ppo, state

from rlhf.compute import deterministic
from rlhf.data.errors import DataError
from rlhf.data.files import read_json
from rlhf.models.adapters import add_adapters
from rlhf.models.policy import load_policy, save_model
from rlhf.models.reward_model import load_reward, reward_from_policy
from rlhf.settings import Lora, check_settings
from rlhf.training import loop as training
from rlhf.training.checkpoints import last_checkpoint
from rlhf.training.reward import train_reward
from rlhf.training.sft import sft
from tasks.ppo import refuse_deepspeed
from tasks.runtime.stage import launch


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """Processes forked from one that has imported the libraries, which takes longer than the training."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["two_processes", "transformers.models.llama.modeling_llama"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")  # the server is not told of sys.path
        forkserver.ensure_running()
    return context


def in_two(context: ForkServerContext, work: Any, *arguments: Any) -> list[int | None]:
    """Train in two processes; returns their exit codes."""
    port = free_port()
    both = [context.Process(target=work, args=(rank, port, *arguments)) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(PATIENCE)
        process.kill()
    return [process.exitcode for process in both]


@pytest.mark.parametrize("config", ["ddp.yaml", "fsdp.yaml"])
def test_two_processes_learn_what_one_does_and_go_on_exactly(
    config: str,
    context: ForkServerContext,
    base: Path,
    tmp_path: Path,
) -> None:
    deterministic(0, 1)
    alone = load_policy(base)
    curve = sft(alone, DEMONSTRATIONS, checkpoints=tmp_path / "alone", seed=0, **SETTINGS)

    assert in_two(context, fine_tune, config, base, tmp_path / "whole", None) == [0, 0]
    shared = read_json(tmp_path / "whole/curve.json")
    assert len(shared) == len(curve) == 2
    for expected, row in zip(curve, shared, strict=True):
        assert row == pytest.approx(expected, abs=1e-5, rel=1e-4)
    together = load_file(tmp_path / "whole/model/model.safetensors")
    for name, tensor in together.items():
        torch.testing.assert_close(tensor, alone.model.state_dict()[name], atol=1e-4, rtol=1e-3)
    # The tracking store gets one curve, not one a process.
    assert read_json(tmp_path / "whole/logged-0.json")
    assert read_json(tmp_path / "whole/logged-1.json") == []

    assert 0 not in in_two(context, fine_tune, config, base, tmp_path / "cut", 6)
    assert last_checkpoint(tmp_path / "cut/checkpoints").name == "checkpoint-4"
    assert in_two(context, fine_tune, config, base, tmp_path / "cut", None) == [0, 0]
    again = load_file(tmp_path / "cut/model/model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in together.items())
    assert read_json(tmp_path / "cut/curve.json") == shared


@pytest.mark.parametrize(
    ("config", "lora"), [("ddp.yaml", None), ("ddp.yaml", "bfloat16"), ("fsdp.yaml", "bfloat16")]
)
def test_a_reward_model_in_two_processes_is_that_of_one_and_goes_on_exactly(
    config: str, lora: str | None, context: ForkServerContext, base: Path, tmp_path: Path
) -> None:
    start = base
    if lora:
        policy = load_policy(base, lora)
        policy.adapters = add_adapters(policy.model, Lora(rank=4))
        save_model(policy, start := tmp_path / "sft")
    deterministic(0, 1)
    alone = reward_from_policy(start, seed=0)
    curve = train_reward(alone, COMPARISONS, checkpoints=tmp_path / "alone", seed=0, **SETTINGS)

    assert in_two(context, learn_rewards, config, start, tmp_path / "whole", None) == [0, 0]
    shared = read_json(tmp_path / "whole/curve.json")
    assert len(shared) == len(curve) > 1
    for expected, row in zip(curve, shared, strict=True):
        assert row == pytest.approx(expected, abs=1e-3 if lora == "bfloat16" else 1e-5, rel=1e-3)
    together = load_reward(tmp_path / "whole/model").model.state_dict()
    for name, tensor in alone.model.state_dict().items():
        torch.testing.assert_close(together[name], tensor, atol=2e-3 if lora else 1e-4, rtol=1e-2)
    assert read_json(tmp_path / "whole/logged-0.json")
    assert read_json(tmp_path / "whole/logged-1.json") == []

    assert 0 not in in_two(context, learn_rewards, config, start, tmp_path / "cut", 6)
    assert last_checkpoint(tmp_path / "cut/checkpoints").name == "checkpoint-4"
    assert in_two(context, learn_rewards, config, start, tmp_path / "cut", None) == [0, 0]
    again = load_reward(tmp_path / "cut/model").model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in together.items())
    assert read_json(tmp_path / "cut/curve.json") == shared


@pytest.mark.parametrize(("config", "lora"), [("ddp.yaml", False), ("ddp.yaml", True), ("fsdp.yaml", False)])
def test_ppo_in_two_processes_learns_and_goes_on_as_in_one(
    config: str, lora: bool, context: ForkServerContext, tmp_path: Path
) -> None:
    alone = small_ppo(tmp_path / "alone", lora, micro_batch_tokens=10_000)
    rows = updates(training.train(alone))
    assert 0 not in in_two(context, policy_optimisation, config, lora, tmp_path, 6)
    assert last_checkpoint(tmp_path / "checkpoints").name == "checkpoint-4"
    assert in_two(context, policy_optimisation, config, lora, tmp_path, None) == [0, 0]
    [author] = (tmp_path / "checkpoints/checkpoint-8").glob("by-*")
    assert author.name == "by-0"
    for expected, row in zip(rows, read_json(tmp_path / "curve.json"), strict=True):
        assert row.keys() == expected.keys()
        assert row == pytest.approx(expected, abs=1e-5, rel=1e-4)
    shared = load_file(tmp_path / "model.safetensors")
    for name, tensor in state(alone).items():
        torch.testing.assert_close(shared[name], tensor, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_shared_or_found_is_one_line(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Quiet("sft", check_settings({"processes": 2}, "test"), key="test", run_id="test")
    with pytest.raises(
        DataError, match=r"sft\.accelerate: no such file: no\.yaml; deploy/accelerate has some"
    ):
        launch(stage, lambda stage: None, "no.yaml")
    with pytest.raises(DataError, match="is for DeepSpeed, which PPO cannot use"):
        refuse_deepspeed(str(ROOT / "deploy/accelerate/deepspeed.yaml"))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(DataError, match=r"sft\.batch_size 8 is not divisible by 3 processes"):
        sft(load_policy(base), DEMONSTRATIONS, checkpoints=tmp_path, seed=0, **SETTINGS)
    with pytest.raises(DataError, match=r"reward\.batch_size 8 is not divisible by 3 processes"):
        train_reward(reward_from_policy(base, 0), COMPARISONS, checkpoints=tmp_path, seed=0, **SETTINGS)
