"""A PPO run that is killed again and again ends with the bytes of one that never was; see kill_ppo.py."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import kill_ppo
import pytest

pytestmark = pytest.mark.slow
UPDATES = 6


@pytest.fixture(scope="module")
def lives() -> ForkServerContext:
    """Processes forked from one that has imported the libraries: those take longer than the run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlhf.rl.trainer", "transformers.models.llama.modeling_llama"])
    return context


@pytest.fixture(scope="module")
def whole(lives: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, kill_ppo.Life]:
    """A run that nobody kills."""
    folder = tmp_path_factory.mktemp("whole")
    life = kill_ppo.run(lives, folder, UPDATES)
    assert life.exitcode == 0
    assert {phase for phase, _, _ in life.reports} >= set(kill_ppo.PHASES)
    return folder, life


def test_five_kills_change_nothing(lives: Any, whole: tuple[Path, kill_ppo.Life], tmp_path: Path) -> None:
    folder, life = whole
    plan = kill_ppo.blows(5, UPDATES, 1, kill_ppo.calls_in(life))
    killed, faults = kill_ppo.kill_again_and_again(lives, tmp_path, UPDATES, plan)
    assert faults == []
    assert len(killed) == 6
    assert kill_ppo.differences(kill_ppo.hashes(folder), kill_ppo.hashes(tmp_path)) == []
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2  # older ones are pruned
    assert not (tmp_path / ".writing").exists()


def test_a_torn_checkpoint_is_not_read(lives: Any, whole: tuple[Path, kill_ppo.Life], tmp_path: Path) -> None:
    folder, _ = whole
    before = kill_ppo.run(lives, tmp_path, UPDATES, kill_ppo.Blow("optimising", 3, 0))
    last = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    torn = tmp_path / ".writing" / f"checkpoint-{before.last + kill_ppo.STEPS_PER_UPDATE}"
    torn.mkdir(parents=True)
    weights = (last / "networks.safetensors").read_bytes()
    (torn / "networks.safetensors").write_bytes(weights[: len(weights) // 2])
    after = kill_ppo.run(lives, tmp_path, UPDATES)
    assert after.exitcode == 0
    assert after.first == int(last.name.split("-")[1])
    assert kill_ppo.differences(kill_ppo.hashes(folder), kill_ppo.hashes(tmp_path)) == []
