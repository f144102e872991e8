"""The training curves of a run as charts, from the CSV files that the stages write."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf.report.drawing import INK, axes_of, svg_text

# chart -> (file of plots/, columns with their names, title, y axis)
CURVES: dict[str, tuple[str, dict[str, str], str, str]] = {
    "base-loss": (
        "base",
        {"loss": "training", "eval_loss": "validation"},
        "Pretraining",
        "loss (nats a token)",
    ),
    "sft-loss": (
        "sft",
        {"loss": "training", "eval_loss": "validation"},
        "Supervised fine-tuning",
        "loss (nats a token)",
    ),
    "reward-loss": (
        "reward",
        {"loss": "training", "eval_loss": "validation"},
        "Reward model",
        "loss (nats a pair)",
    ),
    "reward-accuracy": (
        "reward",
        {"accuracy": "training", "eval_accuracy": "validation"},
        "Reward model",
        "accuracy on pairs",
    ),
    "ppo-score": ("ppo", {"objective/scores": "score"}, "PPO: reward model", "mean score of the samples"),
    "ppo-kl": ("ppo", {"objective/kl": "KL"}, "PPO: distance from SFT", "KL (nats a sequence)"),
}


def curve_charts(folder: Path | str) -> dict[str, str]:
    """Training curves from the CSV files in a folder: name -> SVG. Curves without points are left out."""
    charts = {}
    for name, (file, columns, title, label) in CURVES.items():
        series = {
            legend: points
            for column, legend in columns.items()
            if (points := read_curve(Path(folder) / f"{file}.csv", column))
        }
        if series:
            charts[name] = _curve(series, title, label, "update" if file == "ppo" else "step")
    return charts


def read_curve(path: Path, column: str) -> list[tuple[float, float]]:
    """Points (step, value) of a column; empty where the file or the column is missing."""
    if not path.exists():
        return []
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    return [(float(row["step"]), float(row[column])) for row in rows if row.get("step") and row.get(column)]


def _curve(series: Mapping[str, Sequence[tuple[float, float]]], title: str, label: str, unit: str) -> str:
    figure, axes = axes_of(4.2, 2.6)
    for (name, points), (colour, style) in zip(
        series.items(), (("#3d85c6", "-"), ("#d5690d", "--")), strict=False
    ):
        mark = "o" if len(points) < 3 else None
        axes.plot(
            *zip(*points, strict=True), color=colour, linestyle=style, linewidth=1.8, marker=mark, label=name
        )
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=10, labelcolor=INK)
    axes.set_xlabel(unit)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel(label)
    axes.set_title(title, size=12, color=INK)
    return svg_text(figure)
