"""What a stage and a run leave in MLflow: curves without false points, data sets under their own hash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import yaml

from flows import pipeline
from rlhf.contracts import write_json
from rlhf.settings import Settings
from tasks import context


@pytest.fixture
def folder(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A working directory with one stage; one tracking store for the session."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RLHF_STATE", str(tmp_path_factory.getbasetemp() / "state"))
    Path("params.yaml").write_text(yaml.safe_dump(Settings().model_dump(by_alias=True)))
    stage = {"cmd": "python -m tasks.sft", "params": ["seed"], "outs": ["models/sft"]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"sft": stage}}))
    context.stages.cache_clear()
    yield tmp_path
    context.stages.cache_clear()


def history(run: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in mlflow.MlflowClient().get_metric_history(run, name)]


def test_final_figures_are_no_points_of_a_curve(folder: Path) -> None:
    runs = []

    def main(stage: context.Stage) -> dict[str, float]:
        runs.append(stage.run_id)
        for step, loss in ((10, 3.0), (20, 2.0)):
            stage.log_curve({"loss": loss}, step)
        return {"loss": 2.5}

    context.execute("sft", main)
    [run] = runs
    assert history(run, "loss") == [(10, 3.0), (20, 2.0)]
    assert history(run, "final/loss") == [(0, 2.5)]
    assert {name for name in mlflow.get_run(run).data.metrics if not name.startswith("system/")} == {
        "loss",
        "final/loss",
    }


def test_the_figures_of_a_whole_run_are_final_figures(folder: Path) -> None:
    context.connect()
    policies = {"ppo": {"rate": 0.6, "low": 0.5, "high": 0.7}}
    write_json("metrics/evaluation.json", {"policies": policies, "n": 100})
    write_json("runs/register.json", {"gate": {"promoted": True, "version": "3"}})
    parent = context.start_parent_run("whole", mlflow.MlflowClient(), "execution")
    pipeline.log_verdict(parent, folder)
    logged = mlflow.get_run(parent).data.metrics
    assert all(name.startswith("final/") for name in logged)
    assert logged["final/ppo/rate"] == 0.6
