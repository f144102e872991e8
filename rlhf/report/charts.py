"""Figures as SVG text: the same numbers give the same bytes, on any day."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.measures.display import LABELS, in_order, level_text, rate_text

INK = "#24292f"  # text and axes; a page that embeds a figure may put its own colour here
COLOURS = {"pretrained": "#8c8c8c", "sft": "#3d85c6", "ppo": "#d5690d"}
# figure -> (file of plots/, columns with their names, title, y axis)
CURVES: dict[str, tuple[str, dict[str, str], str, str]] = {
    "pretrain-loss": (
        "pretrain",
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


def preference_figure(evaluation: Mapping[str, Any], confidence: float) -> str:
    """Share of outputs preferred to the reference by policy, with intervals and the one-half line, as SVG.

    Args:
        evaluation: what stands in metrics/evaluation.json.
        confidence: coverage of its intervals, 0..1.
    """
    policies = in_order(evaluation["policies"])
    figure, axes = axes_of(4.7, 0.9 + 0.45 * len(policies))
    for y, (name, row) in enumerate(policies.items()):
        axes.errorbar(
            row["rate"],
            y,
            xerr=[[row["rate"] - row["low"]], [row["high"] - row["rate"]]],
            fmt="o",
            color=COLOURS.get(name, INK),
            markersize=8,
            capsize=5,
            linewidth=2,
            capthick=2,
        )
        axes.annotate(
            rate_text(row),
            (1, y),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            verticalalignment="center",
            color=INK,
            size=11,
        )
    axes.axvline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xlim(0, 1)
    axes.set_ylim(len(policies) - 0.5, -0.5)
    axes.set_yticks(range(len(policies)), [LABELS.get(name, name) for name in policies])
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_xlabel("preferred to the reference", size=10)
    axes.set_title(f"n = {evaluation['n']}, {level_text(confidence)} intervals", size=11, color=INK)
    return svg_text(figure)


def overoptimisation_figures(found: Mapping[str, Any] | None, confidence: float) -> dict[str, str]:
    """Preference, with the fits of Gao et al. 2022, and reward over sqrt(KL), PPO and best-of-n: name -> SVG.

    Args:
        found: `overoptimisation` of metrics/evaluation.json; None gives no figures.
        confidence: coverage of its intervals, 0..1.
    """
    if found is None:
        return {}
    ways = [("PPO", found, COLOURS["ppo"], "o")]
    if found.get("best_of_n"):
        ways.append(("best of n", found["best_of_n"], COLOURS["sft"], "s"))
    figure, axes = axes_of(4.2, 2.8)
    for name, way, colour, mark in ways:
        looks = way["looks"]
        distance, rate = _distances(looks), [look["rate"] for look in looks]
        low, high = ([abs(look["rate"] - look[end]) for look in looks] for end in ("low", "high"))
        axes.errorbar(
            distance, rate, yerr=[low, high], fmt=mark, color=colour, markersize=5, capsize=3, label=name
        )
        if way["fit"]:
            far = max(distance)
            grid = [far * i / 100 for i in range(1, 101)]
            axes.plot([0, *grid], [rate[0], *(rate[0] + _gain(way["fit"], d) for d in grid)], color=colour)
    axes.legend(frameon=False, fontsize=10, labelcolor=INK)
    axes.axhline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_ylim(0, 1)
    axes.set_xlabel("d = sqrt(KL to SFT in nats)")
    axes.set_ylabel("preferred to the reference")
    axes.set_title(
        f"{found['judge']['name']}, n = {found['n']}, {level_text(confidence)} intervals", size=11, color=INK
    )
    preference = svg_text(figure)
    figure, axes = axes_of(4.2, 2.8)
    for name, way, colour, mark in ways:
        scores = [look["score"] for look in way["looks"]]
        axes.plot(_distances(way["looks"]), scores, f"{mark}-", color=colour, markersize=5, label=name)
    axes.legend(frameon=False, fontsize=10, labelcolor=INK)
    axes.set_xlabel("d = sqrt(KL to SFT in nats)")
    axes.set_ylabel("mean reward")
    axes.set_title("the same outputs by the reward model", size=11, color=INK)
    return {"overoptimisation-preference": preference, "overoptimisation-reward": svg_text(figure)}


def _distances(looks: Sequence[Mapping[str, float]]) -> list[float]:
    return [math.sqrt(look["kl"]) for look in looks]


def _gain(fit: Mapping[str, Any], d: float) -> float:
    """The fitted curve at a distance above 0."""
    return d * (fit["a"] - fit["b"] * (math.log(d) if fit["form"] == "rl" else d))


def calibration_figure(quality: Mapping[str, Any] | None) -> dict[str, str]:
    """How often the reward model is right where it is how sure: name -> SVG; nothing where nothing is known.

    Args:
        quality: what `rlhf.measures.calibration.reward_quality` gives.
    """
    if not quality:
        return {}
    found = quality["calibration"]
    figure, axes = axes_of(4.2, 2.8)
    axes.plot([0.5, 1], [0.5, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="as sure as right")
    axes.plot(
        [entry["confidence"] for entry in found["curve"]],
        [entry["accuracy"] for entry in found["curve"]],
        "o-",
        color="#d5690d",
        markersize=5,
        linewidth=1.8,
        label="reward model",
    )
    axes.set_ylim(0, 1)
    axes.set_xlabel("its probability for the text it prefers")
    axes.set_ylabel("labelers prefer it too")
    axes.legend(frameon=False, fontsize=10, labelcolor=INK, loc="lower right")
    axes.set_title(f"calibration on {found['n']} held-out pairs", size=11, color=INK)
    return {"calibration": svg_text(figure)}


def curve_figures(folder: Path | str) -> dict[str, str]:
    """Training curves from the CSV files in a folder: name -> SVG. What is not there is left out."""
    figures = {}
    for name, (file, columns, title, label) in CURVES.items():
        series = {
            legend: points
            for column, legend in columns.items()
            if (points := read_curve(Path(folder) / f"{file}.csv", column))
        }
        if series:
            figures[name] = _curve(series, title, label, "update" if file == "ppo" else "step")
    return figures


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


def axes_of(width: float, height: float) -> tuple[Any, Any]:
    """A figure of inches with one plain pair of axes. No pyplot: nothing global is touched."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=11)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, size=11)
    return figure, axes


def svg_text(figure: Any) -> str:
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "rlhf", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def write_figures(folder: Path, figures: Mapping[str, str]) -> None:
    """Write figures as `<name>.svg` into a folder."""
    folder.mkdir(parents=True)
    for name, svg in figures.items():
        (folder / f"{name}.svg").write_text(svg)
