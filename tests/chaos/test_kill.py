"""Trainings killed by SIGKILL go on from their checkpoint and end with the same files."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Workspace, dvc

pytestmark = pytest.mark.slow


def test_a_killed_training_goes_on_to_the_same_files(repository: Workspace) -> None:
    repository.set({"pretrain.steps": 40, "sft.epochs": 2, "reward.epochs": 4, "ppo.updates": 6})
    dvc("repro", "collect", "validate-comparisons")
    for stage in ("pretrain", "sft", "reward", "ppo"):
        output = Path("models") / {"pretrain": "pretrained"}.get(stage, stage) / "model.safetensors"
        python("-m", f"tasks.{stage}")
        whole = hashlib.sha256(output.read_bytes()).hexdigest()
        subprocess.run(["rm", "-rf", f"checkpoints/{stage}", str(output.parent)], check=True)

        kill_after_first_checkpoint(stage)
        assert not output.exists(), f"{stage} ended before it was killed"
        said = python("-m", f"tasks.{stage}")
        assert "continuing from" in said
        assert hashlib.sha256(output.read_bytes()).hexdigest() == whole, stage


def python(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def kill_after_first_checkpoint(stage: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", f"tasks.{stage}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    folder = Path("checkpoints", stage)
    # not by rglob: it would look into .writing, which is renamed away while it looks
    while not (any(folder.glob("*/checkpoint-*")) or any(folder.glob("*/train/checkpoint-*"))):
        assert process.poll() is None, f"{stage} ended without a checkpoint"
        assert time.monotonic() < end, f"{stage} wrote no checkpoint"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
