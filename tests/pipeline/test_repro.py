"""The whole pipeline under DVC with small parameters: the same bytes again, nothing run twice."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Workspace, dvc

pytestmark = pytest.mark.slow
VARYING = ("runs/", "reports/validation/")  # MLflow run ids; Data Docs carry times


def hashes() -> dict[str, str]:
    """DVC's hash of every dataset, model and metric."""
    stages = yaml.safe_load(Path("dvc.lock").read_text())["stages"].values()
    outs = {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}
    return {path: md5 for path, md5 in outs.items() if not path.startswith(VARYING)}


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


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
