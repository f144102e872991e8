"""What the MLflow run of a whole pipeline shows: parameters, figures, data sets, curves, the report.

Its children are the stages. MLflow sorts, filters and compares runs by what is on the run itself.
"""

from __future__ import annotations

import csv
import json
import math
import time
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

from flows.verdict import verdict_figures
from rlhf.data.files import read_json
from rlhf.measures.deciding_judge import first_trust
from rlhf.settings import Settings
from tasks.graph import flat
from tasks.runtime.outcome import changed_parameters, in_short
from tasks.runtime.tracking import FINAL

DATA = {"data/raw": "source", "data/prepared": "training", "data/comparisons": "rankings"}
CURVES = ("loss", "accuracy", "objective/scores", "objective/kl", "objective/entropy", "val/response_length")
# By itself MLflow colours a run by a hash, and two of ten runs got the same colour. These are the colours of
# Okabe and Ito, and two more.
COLORS = [
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#8a6d00",
    "#666666",
    "#7b3294",
    "#a6d854",
]
MOST_POINTS = 1000  # points that MLflow takes in a request
AT_ONCE, LONGEST = 100, 6000  # parameters that MLflow takes in a request; characters of a value


def log_parameters(run: str, settings: Settings) -> None:
    """Every parameter, and as the tag `changed` those that differ from the commit's, in short."""
    params = [
        Param(key, str(value)[:LONGEST]) for key, value in flat(settings.model_dump(by_alias=True)).items()
    ]
    for start in range(0, len(params), AT_ONCE):
        MlflowClient().log_batch(run, params=params[start : start + AT_ONCE])
    MlflowClient().set_tag(run, "changed", in_short(changed_parameters(), width=200))
    MlflowClient().set_tag(run, "mlflow.runColor", next_color(run))


def next_color(run: str) -> str:
    """The colour that follows the previous run's."""
    client = MlflowClient()
    experiment = client.get_run(run).info.experiment_id
    newest = client.search_runs([experiment], "tags.stage = 'pipeline'", max_results=2)
    before = [other.data.tags.get("mlflow.runColor") for other in newest if other.info.run_id != run]
    last = COLORS.index(before[0]) if before and before[0] in COLORS else -1
    return COLORS[(last + 1) % len(COLORS)]


def log_result(run: str, folder: Path) -> None:
    """What came of it, once it is judged; `folder` is the run's worktree."""
    log_data(run, folder)
    log_verdict(run, folder)
    log_curves(run, folder)
    report = folder / "reports/report.html"
    if report.exists():  # a run may end before it, and a graph of a user's own write none
        MlflowClient().log_artifact(run, str(report))


def log_verdict(run: str, folder: Path) -> None:
    """The verdict's figures as `final/...`, and the course of PPO as the curves `along/...` by update."""
    evaluation = read_json(folder / "metrics/evaluation.json")
    now = int(time.time() * 1000)
    figures = verdict_figures(folder) | _figures(folder, evaluation)
    points = [Metric(FINAL + name, float(value), now, 0) for name, value in figures.items()]
    for snapshot in (evaluation.get("overoptimisation") or {}).get("looks", []):
        points += [
            Metric(f"along/{key}", snapshot[key], now, snapshot["update"]) for key in ("kl", "score", "rate")
        ]
    MlflowClient().log_batch(run, metrics=points)
    MlflowClient().set_tag(run, "judge", evaluation.get("judge", {}).get("name", ""))


def log_curves(run: str, folder: Path) -> None:
    """The curves of the trainings as `curve/<stage>/<figure>`, also of stages that DVC restored.

    They are on the stages' runs too; there MLflow shows them only after each run is opened.
    """
    now, points = int(time.time() * 1000), []
    for path in sorted((folder / "plots").glob("*.csv")):
        with path.open(newline="") as handle:
            for row in csv.DictReader(handle):
                step = int(float(row.pop("step")))
                values = {name: float(value) for name, value in row.items() if value}
                points += [
                    Metric(f"curve/{path.stem}/{name}", value, now, step)
                    for name, value in values.items()
                    if name in CURVES and math.isfinite(value)
                ]
    for start in range(0, len(points), MOST_POINTS):
        MlflowClient().log_batch(run, metrics=points[start : start + MOST_POINTS])


def _figures(folder: Path, evaluation: dict[str, Any]) -> dict[str, float]:
    """Figures that are shown beside the verdict; those that nobody measured are left out."""
    figures = {
        f"{name}/{key}": row.get(key)
        for name, row in evaluation["policies"].items()
        for key in ("kl", "mean_length")
    }
    trust = first_trust(evaluation) if "judge" in evaluation else None
    figures["judge_accuracy"] = ((trust or {}).get("accuracy") or {}).get("rate")
    register = folder / "runs/register.json"
    figures |= read_json(register).get("total_cost", {}) if register.exists() else {}
    return {name: float(value) for name, value in figures.items() if value is not None}


def log_data(run: str, folder: Path) -> None:
    """The data sets, DVC's hash as digest."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"].values()
    hashes = {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}
    inputs = [
        DatasetInput(
            Dataset(Path(path).name, hashes[path], "local", json.dumps({"uri": path})),
            [InputTag("mlflow.data.context", role), InputTag("path", path)],
        )
        for path, role in DATA.items()
        if path in hashes
    ]
    MlflowClient().log_inputs(run, datasets=inputs)
