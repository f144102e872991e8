"""How far a training is, as events: step, steps, seconds left, and the figures that it logged last."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

EVERY_SECONDS = 1.0  # at most one event in this time
# Logged name -> the name that people read.
FIGURES = {"loss": "loss", "accuracy": "accuracy", "objective/scores": "reward", "objective/kl": "KL"}


@dataclass(frozen=True)
class ProgressEvent:
    """The state of a training after a step.

    Attributes:
        step: optimiser steps made; steps: those planned.
        left: seconds to the last planned step at the pace so far; None before the first step.
        figures: the last logged values by the names of `FIGURES`; empty before the first log.
    """

    step: int
    steps: int
    left: float | None
    figures: dict[str, float]


Progress = Callable[[ProgressEvent], None]


class ProgressEvents(TrainerCallback):
    """Hands events to `progress`: at the start, while the training runs, and always at its end.

    Only the first of several processes does.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.figures: dict[str, float] = {}
        self.began = self.reported = 0.0
        self.first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The first event; a resumed training begins at the step of its checkpoint."""
        self.began, self.first_step = time.monotonic(), state.global_step
        self._report(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep the figures for the next event."""
        self.figures |= {
            FIGURES[name]: float(value)
            for name, value in (logs or {}).items()
            if name in FIGURES and math.isfinite(value)
        }

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An event, unless there was one less than `EVERY_SECONDS` ago."""
        if time.monotonic() - self.reported >= EVERY_SECONDS:
            self._report(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last event, also of a training that stopped before its last planned step."""
        self._report(state)

    def _report(self, state: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.reported = time.monotonic()
        made = state.global_step - self.first_step
        pace = (self.reported - self.began) / made if made else None
        left = None if pace is None else round(pace * (state.max_steps - state.global_step), 1)
        self.progress(ProgressEvent(state.global_step, state.max_steps, left, dict(self.figures)))
