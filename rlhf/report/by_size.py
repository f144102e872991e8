"""Figure 1 of Stiennon et al. 2020: how often each policy is preferred to the reference, by model size.

One point is a policy of one size; its judgments are those of several trainings with different seeds.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rlhf.measures.display import LABELS, level_text, rate_text
from rlhf.measures.rates import wilson
from rlhf.report.drawing import COLOURS, INK, axes_of


def ladder(
    cells: Iterable[tuple[str, int, float, Mapping[str, Any]]], confidence: float = 0.95
) -> list[dict[str, Any]]:
    """One row a size, smallest first: parameters, seeds, and each policy's rate over all seeds.

    The interval is Wilson's over the judged prompts of all seeds: it holds for these trainings, and says
    nothing about how another seed would have trained. For that the rate of each seed stands beside it.

    Args:
        cells: size, seed, parameters of the model, and what stands in the metrics/evaluation.json of the run.
        confidence: coverage of the intervals, 0..1.

    Returns:
        rows with `size`, `parameters`, `seeds` and `policies`: name -> `rate`, `low`, `high`, `n`, `by_seed`.

    Raises:
        ValueError: the runs were not judged by one judge, so their rates are not of one kind.
    """
    cells = sorted(cells, key=lambda cell: (cell[2], cell[1]))
    judges = {cell[3]["judge"]["name"] for cell in cells}
    if len(judges) > 1:
        raise ValueError(f"one chart, one judge; the runs have {', '.join(sorted(judges))}")
    rows = []
    for size in dict.fromkeys(cell[0] for cell in cells):
        of_size = [cell for cell in cells if cell[0] == size]
        policies = {}
        for name in (name for name in LABELS if name in of_size[0][3]["policies"]):
            judged = [evaluation["policies"][name] for *_, evaluation in of_size]
            wins, ties, losses = (sum(row[key] for row in judged) for key in ("wins", "ties", "losses"))
            low, high = wilson([1.0] * wins + [0.5] * ties + [0.0] * losses, confidence)
            n = wins + ties + losses
            policies[name] = {
                "rate": (wins + ties / 2) / n,
                "low": low,
                "high": high,
                "n": n,
                "by_seed": [row["rate"] for row in judged],
            }
        seeds = [seed for _, seed, _, _ in of_size]
        rows.append({"size": size, "parameters": of_size[0][2], "seeds": seeds, "policies": policies})
    return rows


def shape(rows: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """What the chart is expected to show, and whether it does: expectation -> whether it holds.

    Args:
        rows: of `ladder`, of policies pretrained, sft and ppo.
    """
    policies = [row["policies"] for row in rows]
    names = ("pretrained", "sft", "ppo")
    expected = {
        f"{LABELS[name]} rises with size": all(
            larger[name]["rate"] > smaller[name]["rate"] for smaller, larger in pairwise(policies)
        )
        for name in names
    }
    for below, above in (("pretrained", "sft"), ("sft", "ppo")):
        higher = f"{LABELS[above]} above {LABELS[below]}"
        expected[f"{higher} at every size"] = all(p[above]["rate"] > p[below]["rate"] for p in policies)
        expected[f"{higher}, intervals apart, at the largest three"] = all(
            p[above]["low"] > p[below]["high"] for p in policies[-3:]
        )
    expected["PPO above the reference from the second size on"] = all(
        p["ppo"]["low"] > 0.5 for p in policies[1:]
    )
    return expected


def size_chart(rows: Sequence[Mapping[str, Any]], judge: str, confidence: float = 0.95) -> Any:
    """The chart: a line a policy over the size, intervals, a small dot a seed, the reference at one half.

    Args:
        rows: of `ladder`.
        judge: name of the judge, for the title.
        confidence: coverage of the intervals, 0..1.

    Returns:
        a matplotlib Figure; `rlhf.report.drawing.svg_text` and `as_png` write it.
    """
    figure, axes = axes_of(6.4, 4.4)
    sizes = [row["parameters"] for row in rows]
    names = list(rows[0]["policies"])
    for k, name in enumerate(names):
        colour = COLOURS.get(name, INK)
        # side by side, so that intervals at one size do not hide each other
        x = [size * (1 + 0.035 * (k - (len(names) - 1) / 2)) for size in sizes]
        judged = [row["policies"][name] for row in rows]
        rates = [p["rate"] for p in judged]
        ends = [[p["rate"] - p["low"] for p in judged], [p["high"] - p["rate"] for p in judged]]
        axes.errorbar(
            x, rates, yerr=ends, fmt="o-", color=colour, markersize=6, capsize=4, linewidth=2, label=name
        )
        for place, p in zip(x, judged, strict=True):
            axes.plot([place] * len(p["by_seed"]), p["by_seed"], ".", color=colour, alpha=0.45, markersize=7)
        axes.annotate(
            LABELS.get(name, name),
            (x[-1], rates[-1]),
            xytext=(10, -4),
            textcoords="offset points",
            color=colour,
            size=12,
        )
    axes.axhline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        "reference", (0, 0.5), xycoords=("axes fraction", "data"), xytext=(6, 4), textcoords="offset points",
        color=INK, size=10,
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(sizes[0] / 1.5, sizes[-1] * 2.2)
    axes.set_xticks(sizes, [row["size"] for row in rows], rotation=30)  # neighbours may be close
    axes.xaxis.set_minor_locator(_no_ticks())
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.set_xlabel("parameters")
    axes.set_ylabel("preferred to the reference")
    n = rows[0]["policies"][names[0]]["n"]
    seeds = len(rows[0]["seeds"])
    axes.set_title(
        f"judge: {judge}; {n} prompts a point over {seeds} seeds (dots); {level_text(confidence)} intervals",
        size=10,
        color=INK,
    )
    return figure


def as_png(figure: Any) -> bytes:
    """A matplotlib Figure as PNG at 160 dots an inch."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=160, metadata={"Software": None})
    return image.getvalue()


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rate and interval by size and policy, as a Markdown table."""
    names = [name for name in LABELS if name in rows[0]["policies"]]
    lines = [
        "| size | parameters | seeds | " + " | ".join(LABELS.get(name, name) for name in names) + " |",
        "|---|---:|---|" + "---|" * len(names),
    ]
    for row in rows:
        rates = [rate_text(row["policies"][name]) for name in names]
        seeds = ", ".join(map(str, row["seeds"]))
        lines.append(f"| {row['size']} | {row['parameters']:,.0f} | {seeds} | {' | '.join(rates)} |")
    return "\n".join(lines)


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
