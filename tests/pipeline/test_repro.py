"""The whole pipeline under DVC with small parameters: nothing runs twice, and kills change no byte."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Workspace, dvc

pytestmark = pytest.mark.slow
VARYING = ("runs/", "reports/validation/")  # MLflow run ids; Data Docs carry times
TRAININGS = {"pretrain": "pretrained", "sft": "sft", "reward": "reward", "ppo": "ppo"}


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """The pipeline, run once by `dvc repro`: the working directory of this file's tests, in their order."""
    path = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(project, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("RLHF_STATE", str(path.parent / "state"))
        repository = Workspace(path)
        repository.set({"pretrain.steps": 40, "sft.epochs": 2, "reward.epochs": 4, "ppo.updates": 6})
        for words in (["init", "-q", "."], ["add", "-A"]):
            subprocess.run(["git", *words], check=True)
        assert sorted(ran(dvc("repro"))) == sorted(stages())
        yield repository


def test_what_is_up_to_date_does_not_run(finished: Workspace) -> None:
    assert ran(dvc("repro")) == []


def test_deleted_outputs_are_restored_and_no_stage_runs(finished: Workspace) -> None:
    first = hashes()
    for path in first:
        subprocess.run(["rm", "-rf", path], check=True)
    assert ran(dvc("repro")) == []
    assert all(Path(path).exists() for path in first)
    assert hashes() == first


def test_a_changed_parameter_reruns_what_depends_on_it(finished: Workspace) -> None:
    first = hashes()
    finished.set({"ppo.kl_coef": 0.1})
    assert ran(dvc("repro")) == ["ppo", "evaluate", "register"]
    assert hashes() != first
    finished.set({"ppo.kl_coef": 0.05})
    assert ran(dvc("repro")) == []  # the run cache still holds the first result
    assert hashes() == first


@pytest.mark.parametrize("stage", TRAININGS)
def test_a_killed_training_goes_on_to_the_same_files(finished: Workspace, stage: str) -> None:
    folder = Path("models", TRAININGS[stage])
    whole = sha256(folder)
    subprocess.run(["rm", "-rf", f"checkpoints/{stage}", str(folder)], check=True)
    kill_after_first_checkpoint(stage)
    assert not folder.exists(), f"{stage} ended before it was killed"
    done = subprocess.run([sys.executable, "-m", f"tasks.{stage}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "continuing from" in done.stdout + done.stderr
    assert sha256(folder) == whole


def test_every_other_stage_run_again_writes_the_same_bytes(finished: Workspace) -> None:
    first = hashes()
    others = sorted(set(stages()) - set(TRAININGS))  # of these, the tests above say more
    assert sorted(ran(dvc("repro", "--force", "--single-item", *others))) == others
    assert hashes() == first


def stages() -> dict[str, Any]:
    return yaml.safe_load(Path("dvc.yaml").read_text())["stages"]


def hashes() -> dict[str, str]:
    """DVC's hash of every dataset, model and metric."""
    stages = yaml.safe_load(Path("dvc.lock").read_text())["stages"].values()
    outs = {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}
    return {path: md5 for path, md5 in outs.items() if not path.startswith(VARYING)}


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


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
