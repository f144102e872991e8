"""The report of a run, gathered from what its stages wrote: reports/report.html and reports/figures.

The stage `register` writes it, since it carries the decision of the gate. What only `evaluate` knows, the
samples and the hashes of its inputs, is in data/judgments/page.json.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from rlhf.data.files import read_json, written_beside
from rlhf.report.charts import (
    calibration_figure,
    curve_figures,
    overoptimisation_figures,
    preference_figure,
    write_figures,
)
from rlhf.report.page import render_report
from tasks.graph import flat, stage_params
from tasks.runtime.outcome import changed_parameters, in_short, total_cost
from tasks.runtime.places import git_commit
from tasks.runtime.stage import Stage
from tasks.runtime.tracking import parent_run

FIGURES, PAGE = "reports/figures", "reports/report.html"


def write_page(stage: Stage, gate: Mapping[str, Any]) -> None:
    """Draw the figures, write the report, and log both as artifacts of the stage's run.

    The run's name, date and cost, the registry's version and the champion of the day differ between two runs
    of the same work; everything else on the page is the same bytes.

    Args:
        stage: the stage that writes it.
        gate: what stands in `runs/register.json` as `gate`.
    """
    evaluation, reward = read_json("metrics/evaluation.json"), read_json("metrics/reward.json")
    confidence = evaluation["confidence"]
    figures = {"preferred-to-reference": preference_figure(evaluation, confidence)}
    figures |= overoptimisation_figures(evaluation["overoptimisation"], confidence)
    figures |= calibration_figure(reward.get("quality"))
    figures |= curve_figures("plots")
    page = render_report(
        evaluation,
        figures,
        read_json("data/judgments/page.json"),
        gate=gate,
        about=about(stage, gate),
        params=flat(stage_params(stage.name)),
        reward=reward,
        rankings=read_json("metrics/collect.json"),
        data=read_json("metrics/prepare.json"),
    )
    with written_beside(FIGURES) as beside:
        write_figures(beside, figures)
    with written_beside(PAGE) as beside:
        beside.write_text(page)
    for path in (FIGURES, PAGE):
        stage.log_artifact(path)


def about(stage: Stage, gate: Mapping[str, Any]) -> dict[str, Any]:
    """The run: see `rlhf.report.page.render_report`. A stage that was run by hand has no name."""
    cost = total_cost()
    return {
        "name": run_name(parent_run()),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": git_commit(),
        "changed": in_short(changed_parameters(), width=300),
        "seconds": cost["seconds"],
        "memory_mb": cost["memory_mb"],
        "champion": champion(stage, gate),
    }


def champion(stage: Stage, gate: Mapping[str, Any]) -> dict[str, str] | None:
    """The version that the gate compared with, the run that it is from, and where that run's report is.

    The link is one to the pages of the runs, which `make up` serves; without them there is none.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    version = (gate.get("champion") or {}).get("version")
    if not version or version == gate["version"]:
        return None
    client, name = MlflowClient(), ""
    with suppress(MlflowException):  # the run may have been deleted, the version stays
        made = client.get_run(client.get_model_version(stage.settings.register_.model_name, version).run_id)
        name = run_name(made.data.tags.get("mlflow.parentRunId"))
    pages = os.environ.get("RLHF_PAGES")
    link = f"{pages}/{quote(name)}/{PAGE}" if pages and name else ""
    return {"version": str(version), "run": name, "link": link}


def run_name(run: str | None) -> str:
    """The name of a run of the whole pipeline in Prefect, DVC and MLflow; empty where there is none."""
    from mlflow import MlflowClient

    return MlflowClient().get_run(run).info.run_name or "" if run else ""
