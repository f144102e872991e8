"""What a stage and a run leave in MLflow: curves without false points, data sets under their own hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import yaml

from flows import mlflow_views, tracking
from rlhf.data.files import write_json
from rlhf.settings import Settings
from tasks.runtime import stage as context
from tasks.runtime.tracking import EXPERIMENT, start_parent_run


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


def test_a_data_set_has_its_own_hash_and_not_that_of_the_run_before(folder: Path) -> None:
    """While a stage runs, dvc.lock has the hashes of the outputs that it wrote when it ran before."""
    locked = {
        "ingest": {"outs": [{"path": "data/raw", "md5": "of-its-input.dir"}]},
        "sft": {"outs": [{"path": "models/sft", "md5": "of-the-run-before.dir"}]},
    }
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": locked}))
    runs = []

    def main(stage: context.Stage) -> None:
        runs.append(stage.run_id)
        for path in ("data/raw/rows.json", "models/sft/rows.json"):
            Path(path).parent.mkdir(parents=True)
            Path(path).write_text("[1]")
            stage.log_dataset(path, [{"a": "b"}], path.partition("/")[0])

    context.execute("sft", main)
    inputs = mlflow.get_run(runs[0]).inputs.dataset_inputs
    logged = {tag.value: entry.dataset.digest for entry in inputs for tag in entry.tags if tag.key == "path"}
    assert logged == {
        "data/raw/rows.json": "of-its-input.dir",
        "models/sft/rows.json": hashlib.md5(b"[1]").hexdigest(),
    }


def test_the_figures_of_a_whole_run_are_final_figures(folder: Path) -> None:
    context.connect()
    policies = {"ppo": {"rate": 0.6, "low": 0.5, "high": 0.7}}
    write_json("metrics/evaluation.json", {"policies": policies, "n": 100})
    write_json("runs/register.json", {"gate": {"promoted": True, "version": "3"}})
    parent = start_parent_run("whole", mlflow.MlflowClient(), "execution")
    tracking.log_verdict(parent, folder)
    logged = mlflow.get_run(parent).data.metrics
    assert all(name.startswith("final/") for name in logged)
    assert logged["final/ppo/rate"] == 0.6


def test_a_stage_is_named_with_its_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context.connect()
    parent = start_parent_run("kl-02", mlflow.MlflowClient(), "named")
    monkeypatch.setenv(context.PARENT_RUN, parent)
    runs = []

    def main(stage: context.Stage) -> None:
        runs.append(stage.run_id)

    context.execute("sft", main)
    [run] = runs
    assert mlflow.get_run(run).info.run_name == "sft kl-02"


def test_a_whole_run_has_parameters_figures_data_and_report(folder: Path) -> None:
    context.connect()
    row = {"rate": 0.6, "low": 0.5, "high": 0.7, "kl": 3.0, "mean_length": 20.5}
    look = {"update": 3, "kl": 1.5, "score": 0.2, "rate": 0.55}
    trust = {"decides": True, "reason": "", "accuracy": {"rate": 0.8, "low": 0.7, "high": 0.9, "n": 50}}
    evaluation = {
        "policies": {"ppo": row},
        "n": 100,
        "judge": {"name": "reward-model", "kind": "model", "key": "reward-model"},
        "judges": {"reward-model": {"trust": trust}},
        "overoptimisation": {"looks": [look, look | {"update": 6, "kl": 2.0}]},
    }
    write_json("metrics/evaluation.json", evaluation)
    cost = {"seconds": 200, "memory_mb": 900}
    write_json("runs/register.json", {"gate": {"promoted": True, "version": "3"}, "total_cost": cost})
    write_json("reports/report.html", "a page")
    Path("plots").mkdir()
    Path("plots/sft.csv").write_text("step,loss,learning_rate\n10,3.0,0.1\n20,nan,0.1\n30,,0.1\n40,2.0,0.1\n")
    lock = {"stages": {"prepare": {"outs": [{"path": "data/prepared", "md5": "0" * 32 + ".dir"}]}}}
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    parent = start_parent_run("compared", mlflow.MlflowClient(), "compared")
    tracking.log_parameters(parent, Settings())
    tracking.log_result(parent, folder)

    run = mlflow.get_run(parent)
    assert run.data.params["ppo.kl_coef"] == "0.05"
    assert len(run.data.params) > 100
    figures = {name.removeprefix("final/"): value for name, value in run.data.metrics.items()}
    assert figures | {"ppo/kl": 3.0, "ppo/mean_length": 20.5, "judge_accuracy": 0.8} == figures
    assert figures | {"seconds": 200, "memory_mb": 900, "promoted": 1, "ppo/low": 0.5} == figures
    assert history(parent, "along/kl") == [(3, 1.5), (6, 2.0)]
    assert history(parent, "curve/sft/loss") == [(10, 3.0), (40, 2.0)]
    assert run.data.tags["mlflow.runColor"] in tracking.COLORS
    other = start_parent_run("next", mlflow.MlflowClient(), "next")
    tracking.log_parameters(other, Settings())
    assert mlflow.get_run(other).data.tags["mlflow.runColor"] != run.data.tags["mlflow.runColor"]
    [data] = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("prepared", "0" * 32 + ".dir")
    assert [file.path for file in mlflow.MlflowClient().list_artifacts(parent)] == ["report.html"]
    assert run.data.tags["judge"] == "reward-model"


def test_views_are_written_once_and_those_of_people_stay(folder: Path) -> None:
    context.connect()
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    own = mlflow_views.TAG + "own"
    client.set_experiment_tag(experiment.experiment_id, own, "of a person")
    mlflow_views.write_views()
    tags = client.get_experiment_by_name(EXPERIMENT).tags
    assert tags[own] == "of a person"
    for name in ("runs", "charts", "curves"):
        view = json.loads(tags[mlflow_views.TAG + name])
        state = json.loads(view["state"])
        assert "metrics.`final/ppo/rate`" in state["selectedColumns"]
        sections = {section["uuid"] for section in state.get("compareRunSections", [])}
        charts = state.get("compareRunCharts", [])
        assert {chart["metricSectionId"] for chart in charts} == sections
        assert len({chart["uuid"] for chart in charts}) == len(charts)
    mlflow_views.write_views()
    assert client.get_experiment_by_name(EXPERIMENT).tags == tags
    url = mlflow_views.view_url("http://127.0.0.1:5000", "charts")
    assert url.endswith("&viewStateShareKey=charts&compareRunsMode=CHART")


def test_a_run_that_ends_with_its_evaluation_has_its_rates(folder: Path) -> None:
    context.connect()
    write_json(
        "metrics/evaluation.json", {"policies": {"ppo": {"rate": 0.6, "low": 0.5, "high": 0.7}}, "n": 9}
    )
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {}}))
    parent = start_parent_run("judged", mlflow.MlflowClient(), "judged")
    tracking.log_result(parent, folder)
    logged = mlflow.get_run(parent).data.metrics
    assert logged == {"final/ppo/rate": 0.6, "final/ppo/low": 0.5, "final/ppo/high": 0.7, "final/n": 9}
