"""How numbers and policies are written for people: alike in report, terminal, Prefect and registry.

A rate has three decimals, while JSON holds it with six, and never is a percentage: two roundings of one
number (32.1 % and 0.322) look like two numbers. What does not exist is a dash, never `nan`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")
# `collect.labelers` -> who ranked; others are labelers.
RANKED_BY = {"simulated": "simulated labelers", "references": "construction from references, no labeler"}
MISSING = "–"
LABELS = {
    "pretrained": "pretrained",
    "sft": "SFT",
    "ppo": "PPO",
    "human": "another reference",  # of the same prompt, where people wrote several
    "reference": "reference",
}


def in_order(by_policy: Mapping[str, T]) -> dict[str, T]:
    """The same values in the order in which the policies were made, the reference last."""
    known = list(LABELS)
    return dict(sorted(by_policy.items(), key=lambda item: [*known, item[0]].index(item[0])))


def number(value: float | None, digits: int = 3) -> str:
    """0.3215 -> `0.322`; a dash where there is no number."""
    return MISSING if value is None or math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A difference, with its sign: 0.0304 -> `+0.030`, never `-0.000`; a dash where there is none."""
    return MISSING if value is None or math.isnan(value) else f"{round(value, digits) + 0.0:+.{digits}f}"


def interval_text(row: Mapping[str, Any], digits: int = 3) -> str:
    """The interval of a row with `low` and `high`: `0.309 to 0.366`."""
    ends = [number(row.get(end), digits) for end in ("low", "high")]
    return MISSING if MISSING in ends else " to ".join(ends)


def signed_interval(row: Mapping[str, Any]) -> str:
    """The interval of a difference: `-0.004 to +0.029`."""
    ends = [signed(row.get(end)) for end in ("low", "high")]
    return MISSING if MISSING in ends else " to ".join(ends)


def rate_text(row: Mapping[str, Any]) -> str:
    """A rate with its interval, from a row with `rate`, `low` and `high`: `0.322 (0.309 to 0.366)`."""
    return f"{number(row['rate'])} ({interval_text(row)})"


def figure_text(row: Mapping[str, Any], figure: str) -> str:
    """A number with its interval, from a row with `<figure>` and `<figure>_interval`."""
    low, high = row[f"{figure}_interval"] or (None, None)
    return MISSING if row[figure] is None else rate_text({"rate": row[figure], "low": low, "high": high})


def difference_text(row: Mapping[str, Any]) -> str:
    """A difference with its interval, from a row with `difference`, `low` and `high`."""
    return f"{signed(row['difference'])} ({signed_interval(row)})"


def p_text(value: float | None) -> str:
    """A p value: four decimals, `< 0.0001` below that, `1` for one."""
    if value is None or math.isnan(value):
        return MISSING
    return "< 0.0001" if value < 0.0001 else "1" if value >= 0.99995 else f"{value:.4f}"


def level_text(confidence: float) -> str:
    """The level of an interval: 0.95 -> `95 %`, 0.995 -> `99.5 %`, with a space that does not break."""
    return f"{100 * confidence:.10g}\u00a0%"


def count_text(count: float, noun: str) -> str:
    """`6,686 demonstrations`."""
    return f"{count:,} {noun}"


def cost_text(seconds: float, memory_mb: float) -> str:
    """What a run's stages cost together, in time and peak memory: `3 min 34 s, 913 MB at most`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    time = f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{time}, {count_text(round(memory_mb), 'MB')} at most"
