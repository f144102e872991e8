"""Curves of a training: the values it logs by step, handed on while it runs and written at its end."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rlhf.data.files import written_beside

Curve = Callable[[dict[str, float], int], None]  # takes values by name, and their step


class CurveLog(TrainerCallback):
    """Hands logged values to `curve`; a training shorter than one log interval logs every step."""

    def __init__(self, curve: Curve | None) -> None:
        self.curve = curve

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.max_steps < state.logging_steps:
            state.logging_steps = 1

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.curve and logs and state.is_world_process_zero:
            self.curve(logged_numbers(logs), state.global_step)


def final_loss(curve: list[dict[str, float]]) -> float | None:
    """The last logged loss; None if none was logged."""
    return next((row["loss"] for row in reversed(curve) if "loss" in row), None)


def write_curve(path: Path | str, rows: list[dict[str, float]]) -> None:
    """Write a curve as CSV, a row a step, `step` first."""
    columns = ["step", *sorted({key for row in rows for key in row} - {"step"})]
    with written_beside(path) as beside, beside.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)


def logged_numbers(logs: dict[str, Any]) -> dict[str, float]:
    """The numbers of a log that belong into a curve: not timings, nor TRL's token counter, which starts anew
    when a training is resumed."""
    timing = ("runtime", "per_second", "total_flos", "epoch", "step", "num_tokens")
    return {
        k: float(v) for k, v in logs.items() if isinstance(v, int | float) and not any(t in k for t in timing)
    }
