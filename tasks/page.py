"""The report of a run, gathered from what its stages wrote: reports/report.html and reports/figures.

The stage `register` writes it, since it carries the decision of the gate. What only `evaluate` knows, the
samples and the hashes of its inputs, is in data/judgments/page.json.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rlhf.contracts import read_json, written_beside
from rlhf.figures import (
    calibration_figure,
    curve_figures,
    overoptimisation_figures,
    preference_figure,
    write_figures,
)
from rlhf.report import render_report
from tasks.context import Stage, flat, git_commit, parent_run, stage_params

FIGURES, PAGE = "reports/figures", "reports/report.html"


def write_page(stage: Stage, gate: Mapping[str, Any]) -> None:
    """Draw the figures, write the report, and log both as artifacts of the stage's run.

    The name of the run, the date and the registry's version differ between two runs of the same work;
    everything else on the page is the same bytes.

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
        run=run_name(),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        commit=git_commit(),
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


def run_name() -> str:
    """The name of the run in Prefect, DVC and MLflow; empty where the stage was run by hand."""
    from mlflow import MlflowClient

    parent = parent_run()
    return MlflowClient().get_run(parent).info.run_name or "" if parent else ""
