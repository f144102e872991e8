"""How far a training is, read from what it prints: a progress artifact in Prefect.

`transformers` prints a progress bar and its logged figures; both go to the flow's log, so nothing in the
training knows of Prefect.
"""

from __future__ import annotations

import ast
import re
import time
from contextlib import suppress
from typing import Any

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

EVERY_SECONDS = 3.0  # between two updates
FIGURES = {"objective/scores": "reward", "objective/kl": "KL", "loss": "loss", "accuracy": "accuracy"}

# " 33%|███▎  | 2/6 [00:00<00:01, 20.85it/s]"
_BAR = re.compile(r"(\d+)%\|.*\| (\d+)/(\d+) \[[\d:]+<([\d:]+|\?)")


class Progress:
    """The progress of one stage; a stage that prints no progress bar gets no artifact.

    Args:
        name: the stage.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.figures: dict[str, str] = {}
        self._artifact: Any = None
        self._updated = 0.0

    def read(self, line: str) -> None:
        """Take in a line of the stage's output and show what it says, at most once in `EVERY_SECONDS`."""
        if line.startswith("{"):
            self.figures |= figures_of(line)
        bar = _BAR.search(line)
        if not bar:
            return
        percent, step, steps, left = bar.groups()
        if time.monotonic() - self._updated < EVERY_SECONDS and step != steps:
            return
        self._updated = time.monotonic()
        words = [f"{self.name}: step {step} of {steps}", *(f"{k} {v}" for k, v in self.figures.items())]
        if left != "?":
            words.append(f"{left} left")
        self._show(float(percent), ", ".join(words))

    def _show(self, percent: float, text: str) -> None:
        # Tried once: while this waited for a server that is away, the training's output would pile up unread
        # until the training stood still. The next update will do.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), suppress(httpx.HTTPError):
            if self._artifact is None:
                key = f"progress-{self.name}"
                self._artifact = create_progress_artifact(percent, key=key, description=text)
            else:
                update_progress_artifact(self._artifact, percent, description=text)


def figures_of(line: str) -> dict[str, str]:
    """The figures worth showing of a line such as `{'loss': '0.69', 'epoch': '1'}`."""
    try:
        values = ast.literal_eval(line)
    except (ValueError, SyntaxError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {short: str(values[name]) for name, short in FIGURES.items() if name in values}
