"""The charts of an evaluation and of its reward model, as SVG text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.measures.display import LABELS, in_order, level_text, rate_text
from rlhf.report.drawing import COLOURS, INK, axes_of, svg_text


def preference_chart(evaluation: Mapping[str, Any], confidence: float) -> str:
    """How often each policy is preferred to the reference, with intervals and the one-half line, as SVG.

    Args:
        evaluation: what stands in metrics/evaluation.json.
        confidence: coverage of its intervals, 0..1.
    """
    people = {"human": evaluation["human"]} if "human" in evaluation else {}
    policies = in_order(evaluation["policies"] | people)
    figure, axes = axes_of(5.5 if people else 4.7, 0.9 + 0.45 * len(policies))
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


def overoptimisation_charts(along: Mapping[str, Any] | None, confidence: float) -> dict[str, str]:
    """Preference, with the fits of Gao et al. 2022, and reward over sqrt(KL), PPO and best-of-n: name -> SVG.

    Args:
        along: `overoptimisation` of metrics/evaluation.json; None gives no charts.
        confidence: coverage of its intervals, 0..1.
    """
    if along is None:
        return {}
    series = [("PPO", along, COLOURS["ppo"], "o")]
    if along.get("best_of_n"):
        series.append(("best of n", along["best_of_n"], COLOURS["sft"], "s"))
    figure, axes = axes_of(4.2, 2.8)
    for name, part, colour, mark in series:
        snapshots = part["looks"]
        distances, rates = _distances(snapshots), [row["rate"] for row in snapshots]
        low, high = ([abs(row["rate"] - row[end]) for row in snapshots] for end in ("low", "high"))
        axes.errorbar(
            distances, rates, yerr=[low, high], fmt=mark, color=colour, markersize=5, capsize=3, label=name
        )
        if part["fit"]:
            far, start = max(distances), rates[0]
            grid = [far * i / 100 for i in range(1, 101)]
            axes.plot([0, *grid], [start, *(start + _gain(part["fit"], d) for d in grid)], color=colour)
    axes.legend(frameon=False, fontsize=10, labelcolor=INK)
    axes.axhline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_ylim(0, 1)
    axes.set_xlabel("d = sqrt(KL to SFT in nats)")
    axes.set_ylabel("preferred to the reference")
    axes.set_title(
        f"{along['judge']['name']}, n = {along['n']}, {level_text(confidence)} intervals", size=11, color=INK
    )
    preference = svg_text(figure)
    figure, axes = axes_of(4.2, 2.8)
    for name, part, colour, mark in series:
        scores = [row["score"] for row in part["looks"]]
        axes.plot(_distances(part["looks"]), scores, f"{mark}-", color=colour, markersize=5, label=name)
    axes.legend(frameon=False, fontsize=10, labelcolor=INK)
    axes.set_xlabel("d = sqrt(KL to SFT in nats)")
    axes.set_ylabel("mean reward")
    axes.set_title("the same outputs by the reward model", size=11, color=INK)
    return {"overoptimisation-preference": preference, "overoptimisation-reward": svg_text(figure)}


def _distances(snapshots: Sequence[Mapping[str, float]]) -> list[float]:
    return [math.sqrt(snapshot["kl"]) for snapshot in snapshots]


def _gain(fit: Mapping[str, Any], d: float) -> float:
    """The fitted curve at a distance above 0."""
    return d * (fit["a"] - fit["b"] * (math.log(d) if fit["form"] == "rl" else d))


def calibration_charts(quality: Mapping[str, Any] | None) -> dict[str, str]:
    """How often the reward model is right, by how sure it is: name -> SVG; no chart where nothing is known.

    Args:
        quality: what `rlhf.measures.calibration.reward_quality` gives.
    """
    if not quality:
        return {}
    calibration = quality["calibration"]
    figure, axes = axes_of(4.2, 2.8)
    axes.plot([0.5, 1], [0.5, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="as sure as right")
    axes.plot(
        [entry["confidence"] for entry in calibration["curve"]],
        [entry["accuracy"] for entry in calibration["curve"]],
        "o-",
        color=COLOURS["ppo"],
        markersize=5,
        linewidth=1.8,
        label="reward model",
    )
    axes.set_ylim(0, 1)
    axes.set_xlabel("its probability for the text it prefers")
    axes.set_ylabel("labelers prefer it too")
    axes.legend(frameon=False, fontsize=10, labelcolor=INK, loc="lower right")
    axes.set_title(f"calibration on {calibration['n']} held-out pairs", size=11, color=INK)
    return {"calibration": svg_text(figure)}
