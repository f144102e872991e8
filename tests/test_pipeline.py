"""The whole pipeline under DVC with small parameters: the same bytes again, nothing run twice, and kills."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Workspace

pytestmark = pytest.mark.slow
VARYING = ("runs/", "reports/validation/")  # MLflow run ids; Data Docs carry times


def dvc(*words: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def hashes() -> dict[str, str]:
    """DVC's hash of every dataset, model and metric."""
    stages = yaml.safe_load(Path("dvc.lock").read_text())["stages"].values()
    outs = {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}
    return {path: md5 for path, md5 in outs.items() if not path.startswith(VARYING)}


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


@pytest.fixture
def repository(workspace: Workspace) -> Workspace:
    for words in (["init", "-q", "."], ["add", "-A"]):
        subprocess.run(["git", *words], check=True, cwd=workspace.path)
    return workspace


def test_dvc_repro_repeats_restores_and_reruns_what_changed(repository: Workspace) -> None:
    stages: dict[str, Any] = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    assert sorted(ran(dvc("repro"))) == sorted(stages)
    first = hashes()
    assert ran(dvc("repro")) == []

    for path in first:  # every output gone: restored from the cache, no stage runs
        subprocess.run(["rm", "-rf", path], check=True)
    output = dvc("repro")
    assert ran(output) == []
    assert all(Path(path).exists() for path in first)

    subprocess.run(["rm", "-rf", "checkpoints"], check=True)
    assert sorted(ran(dvc("repro", "--force"))) == sorted(stages)
    assert hashes() == first

    repository.set({"ppo.kl_coef": 0.1})
    assert ran(dvc("repro")) == ["ppo", "evaluate", "register"]
    repository.set({"ppo.kl_coef": 0.05})
    assert ran(dvc("repro")) == []  # the run cache still holds the first result
    assert hashes() == first


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
    while not list(Path("checkpoints", stage).rglob("COMPLETE")):
        assert process.poll() is None, f"{stage} ended without a checkpoint"
        assert time.monotonic() < end, f"{stage} wrote no checkpoint"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
