"""Prefect and MLflow stopped in mid-run and started again a minute later: training goes on, nothing is lost.

RLHF_CHAOS=1 python -m pytest tests/chaos/test_server_restart.py
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import Workspace, free_port
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterType
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.services import up
from flows.services.catalogue import services
from flows.services.processes import start, wait_until_well
from flows.services.settings import Config, environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("RLHF_CHAOS"), reason="takes minutes; RLHF_CHAOS=1 runs it"),
]
AWAY_SECONDS = 60.0
BEFORE_AND_IN = ("ingest", "prepare", "validate", "base", "sft")


def test_servers_away_for_a_minute_lose_nothing(repository: Workspace, monkeypatch, tmp_path: Path) -> None:
    import mlflow

    repository.set({"base.steps": 3000, "base.save_every": 50})
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run([*git, "commit", "-qm", "start"], check=True)
    monkeypatch.setenv("RLHF_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", str(repository.path))
    ports = {name: {"port": free_port()} for name in ("prefect", "mlflow")}
    config = Config.model_validate(ports)
    for name, value in environment(config).items():
        monkeypatch.setenv(name, value)
    servers = [service for service in services(config) if service.name in ports]
    log = tmp_path / "run.log"

    def start_servers() -> None:
        for server in servers:
            start(config, server)
        for server in servers:
            wait_until_well(server)

    up.connect_locally()
    start_servers()
    process = None
    try:
        with log.open("w") as handle:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.run", "--name", "held", "--aside", "--until", "sft"],
                stdout=handle,
                stderr=subprocess.STDOUT,
            )
        checkpoints = Path("checkpoints/base")
        end = time.monotonic() + 300
        while not any(checkpoints.glob("*/checkpoint-*")):
            assert process.poll() is None, log.read_text()[-5000:]
            assert time.monotonic() < end, "no checkpoint"
            time.sleep(0.2)
        steps = _steps(checkpoints)
        assert set(up.down()) == {"prefect", "mlflow"}
        time.sleep(AWAY_SECONDS / 2)
        between, size = _steps(checkpoints), log.stat().st_size
        time.sleep(AWAY_SECONDS / 2)
        print(f"newest checkpoint before {steps}, then {between}, after {_steps(checkpoints)}")
        assert steps < between < _steps(checkpoints), "training did not go on"
        assert log.stat().st_size > size, "nobody logs how far the training is"
        start_servers()
        assert process.wait(400) == 0, log.read_text()[-5000:]
        print(log.read_text())

        with (
            temporary_settings({PREFECT_API_URL: os.environ["PREFECT_API_URL"]}),
            get_client(sync_client=True) as client,
        ):
            [flow_run] = client.read_flow_runs()
            tasks = {task_run.name: task_run.state_name for task_run in client.read_task_runs()}
            notes = client.read_artifacts(
                artifact_filter=ArtifactFilter(type=ArtifactFilterType(any_=["markdown"]))
            )
        assert (flow_run.name, flow_run.state_name) == ("held", "Partial")
        assert tasks == dict.fromkeys(BEFORE_AND_IN, "Completed")
        assert {note.key for note in notes} == {"links", *(f"stage-{name}" for name in BEFORE_AND_IN)}

        runs = {
            run.info.run_name.removesuffix(" held"): run
            for run in mlflow.search_runs(search_all_experiments=True, output_format="list")
        }
        assert {name: run.info.status for name, run in runs.items()} == dict.fromkeys(
            ("held", *BEFORE_AND_IN), "FINISHED"
        )
        client = mlflow.MlflowClient()
        for stage in ("base", "sft"):
            with Path(".runs/held/plots", f"{stage}.csv").open() as handle:
                curve = [
                    (int(row["step"]), float(row["loss"])) for row in csv.DictReader(handle) if row["loss"]
                ]
            history = client.get_metric_history(runs[stage].info.run_id, "loss")
            logged = sorted({(point.step, point.value) for point in history})
            assert [step for step, _ in logged] == [step for step, _ in curve]
            assert [value for _, value in logged] == pytest.approx([value for _, value in curve], rel=1e-4)
            assert runs[stage].data.params["seed"]
            assert "final/loss" in runs[stage].data.metrics
        assert client.list_artifacts(runs["sft"].info.run_id)
        assert any(key.startswith("system/") for key in runs["base"].data.metrics)
    finally:
        if process and process.poll() is None:
            for started in [*psutil.Process(process.pid).children(recursive=True), process]:
                started.kill()
        up.down()


def _steps(folder: Path) -> int:
    """The step of the newest checkpoint."""
    return max(int(path.name.split("-")[1]) for path in folder.glob("*/checkpoint-*"))
