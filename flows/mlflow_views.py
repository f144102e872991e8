"""Views of the experiment in MLflow's own pages: which columns, charts and order they open with.

MLflow (3.16 and later) keeps a saved view as a tag of the experiment, `mlflow.sharedViewState.<id>`: its name
and the state of the page as JSON. The ids are fixed, so writing a view again changes it and adds none; views
that people saved stay. All are in a menu above the runs, and `view_url` opens one.
"""

from __future__ import annotations

import json
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from tasks.runtime.tracking import EXPERIMENT, FINAL

TAG = "mlflow.sharedViewState."
RATE = f"{FINAL}ppo/rate"
FIGURES = (
    *(f"{FINAL}ppo/{name}" for name in ("rate", "low", "high")),
    *(f"{FINAL}{name}" for name in ("n", "promoted", "judge_accuracy")),
    *(f"{FINAL}ppo/{name}" for name in ("kl", "mean_length")),
    *(f"{FINAL}{name}" for name in ("seconds", "memory_mb")),
)
PIPELINES = "tags.stage = 'pipeline'"
ALONG = {"along/rate": "preference", "along/score": "reward"}  # curves of the run, over along/kl
CURVES = {
    "curve/ppo/objective/scores": "PPO: reward",
    "curve/ppo/objective/kl": "PPO: KL to the SFT policy",
    "curve/ppo/objective/entropy": "PPO: entropy",
    "curve/ppo/val/response_length": "PPO: tokens a response",
    "curve/reward/loss": "Reward model: loss",
    "curve/sft/loss": "SFT: loss",
    "curve/base/loss": "Base model: loss",
}


def write_views() -> None:
    """Write the views that the experiment lacks or has in another form."""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    views = {TAG + key: json.dumps(view, sort_keys=True) for key, view in saved_views().items()}
    for key, value in views.items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)


def view_url(server: str, view: str = "runs") -> str:
    """The address of a view on a server whose store this process uses."""
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    page = f"{server}/#/experiments/{experiment.experiment_id}/runs"
    # MLflow's default kind of work would open the page at traces of language models.
    address = f"{page}?workflowType=machine_learning&viewStateShareKey={view}"
    return address if view == "runs" else f"{address}&compareRunsMode=CHART"  # which the state does not hold


def mlflow_page(server: str) -> str:
    """Where MLflow's pages are best entered: the view of the runs, or the server where that is not known."""
    before = mlflow.get_tracking_uri()
    try:
        mlflow.set_tracking_uri(server)
        write_views()
        return view_url(server)
    except (MlflowException, AttributeError):  # it wants a sign-in, or has no run yet
        return server
    finally:
        mlflow.set_tracking_uri(before)


def saved_views() -> dict[str, dict[str, Any]]:
    """The views by their ids: `runs` is a table, the others are charts."""
    states = {
        "runs": ("Runs: rate, interval, what differs", _state(RATE)),
        "charts": ("Charts: preference by run and over KL", _state(RATE, _charts())),
        "curves": ("Curves of the trainings, runs overlaid", _state(RATE, _curves())),
    }
    # The time is fixed, because otherwise the tag would change at every start.
    return {
        key: {"name": name, "createdAt": 1, "state": json.dumps(state, sort_keys=True)}
        for key, (name, state) in states.items()
    }


def _charts() -> list[tuple[str, list[dict[str, Any]]]]:
    """Sections with their charts; `DIFFERENCE` is a table that leaves out what is equal."""
    over_kl = {"xAxisKey": "metric", "selectedXAxisMetricKey": "along/kl", "useGlobalXaxisKey": False}
    axes = {"xaxis": {"key": f"{FINAL}ppo/kl", "type": "METRIC"}, "yaxis": {"key": RATE, "type": "METRIC"}}
    differs = {
        "compareGroups": ["Parameters", "Model metrics"],
        "showDifferencesOnly": True,
        "showChangeFromBaseline": True,
        "baselineColumnUuid": "",
        "chartName": "Parameters and figures that differ",
    }
    preferred: list[dict[str, Any]] = [
        {"type": "BAR", "metricKey": RATE, "displayName": "Preferred to the reference"},
        {"type": "SCATTER", "displayName": "Preference over KL, one point a run", **axes},
    ]
    along: list[dict[str, Any]] = [
        {**_line(key, f"Mean {name} over KL, while PPO ran"), **over_kl} for key, name in ALONG.items()
    ]
    return [
        ("Preference", preferred),
        ("Reward and judged preference over KL", along),
        ("What differs", [{"type": "DIFFERENCE", "displayName": differs["chartName"], **differs}]),
    ]


def _curves() -> list[tuple[str, list[dict[str, Any]]]]:
    return [("Curves", [_line(key, title) for key, title in CURVES.items()])]


def _line(metric: str, title: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "displayName": title,
        "displayPoints": True,
        "lineSmoothness": 0,
        "useGlobalLineSmoothing": False,
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "yAxisKey": "metric",
        "yAxisExpressions": [],
    }


def _state(order: str, sections: list[tuple[str, list[dict[str, Any]]]] | None = None) -> dict[str, Any]:
    """The state of MLflow's page of runs: whole pipelines, those with most of the metric `order` first."""
    columns = ["tags.`changed`", *(f"metrics.`{name}`" for name in FIGURES), "tags.`judge`"]
    state: dict[str, Any] = {
        "searchFilter": PIPELINES,
        "orderByKey": f"metrics.`{order}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {columns[0]: 220},
        "runsHiddenMode": "FIRST_20_RUNS",
        "runListHidden": False,
        "viewMaximized": False,
        "groupBy": None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
    }
    if sections:
        state["isAccordionReordered"] = True
        state["compareRunSections"] = [
            {"uuid": f"section-{i}", "name": name, "display": True, "isReordered": True}
            for i, (name, _) in enumerate(sections)
        ]
        state["compareRunCharts"] = [
            {
                "uuid": f"chart-{i}-{j}",
                "metricSectionId": f"section-{i}",
                "runsCountToCompare": 20,
                "deleted": False,
                "isGenerated": False,
                **chart,
            }
            for i, (_, charts) in enumerate(sections)
            for j, chart in enumerate(charts)
        ]
    return state
