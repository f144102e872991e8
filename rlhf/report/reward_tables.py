"""The report's tables of the reward model: what it is worth, and every number that a stage measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf.measures.display import (
    interval_text,
    number,
    rate_text,
)
from rlhf.report.layout import Table, table


def reward_tables(quality: Mapping[str, Any], labelers: str) -> list[Table]:
    """Accuracy by labeler group; calibration, length bias and ceiling.

    Args:
        quality: what `rlhf.measures.calibration.reward_quality` gives.
        labelers: who ranked, as the end of a caption: `by labelers`.
    """
    if not quality:
        return []
    rows = [[group, _estimate(row), str(row["n"])] for group, row in quality["accuracy"].items()]
    caption = f"Accuracy on held-out rankings {labelers}"
    accuracy = table(caption, ["accuracy", "pairs"], rows, corner="labelers")
    measures = [
        ["expected calibration error", number(quality["calibration"]["ece"])],
        ["Brier score (a coin: 0.250)", number(quality["calibration"]["brier"])],
    ]
    for key, name in (
        ("model", "the model prefers the longer text"),
        ("labelers", "labelers prefer the longer text"),
        ("difference", "difference"),
        ("shorter_right", "right where labelers prefer the shorter"),
    ):
        if row := (quality["length_bias"] or {}).get(key):
            measures.append([name, _estimate(row)])
    if quality["agreement"]:
        pairs = quality["agreement"]
        low, high = quality["ceiling"]
        measures.append([f"two labelers agree ({pairs['pairs']} pairs)", number(pairs["value"])])
        measures.append(["so the best model would reach", interval_text({"low": low, "high": high})])
    return [accuracy, table("Calibration, length bias, ceiling", [], measures)]


def metric_tables(values: Mapping[str, Any], caption: str) -> list[Table]:
    """Metrics of any shape as tables: single numbers in one table, and one for each group of groups."""
    single = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    shown: list[Table] = []
    if single:
        rows = [[_spaced(key), _text(value)] for key, value in single.items()]
        shown.append(table(caption, [], rows))
    nested = {key: row for key, row in values.items() if isinstance(row, Mapping)}
    flat = {key: row for key, row in nested.items() if not any(isinstance(v, Mapping) for v in row.values())}
    if flat:
        columns = list(dict.fromkeys(column for row in flat.values() for column in row))
        rows = [[_spaced(key), *(_text(row.get(c, "")) for c in columns)] for key, row in flat.items()]
        shown.append(table(caption, [_spaced(column) for column in columns], rows))
    for key, value in nested.items():
        if key not in flat:
            shown += metric_tables(value, f"{caption}: {_spaced(key)}")
    return shown


def _spaced(key: str) -> str:
    return key.replace("_", " ")


def _text(value: Any) -> str:
    return number(value) if value is None or isinstance(value, float) else str(value)


def _estimate(row: Mapping[str, Any]) -> str:
    return rate_text({"rate": row["value"], "low": row["low"], "high": row["high"]})
