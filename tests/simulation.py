"""How often intervals cover a planted truth."""

from __future__ import annotations

from collections.abc import Callable


def coverage(truth: float, draw: Callable[[], tuple[float, float]], draws: int = 2000) -> float:
    """Share of intervals that cover the truth; `draw` simulates a sample and returns its interval."""
    covered = 0
    for _ in range(draws):
        low, high = draw()
        covered += low <= truth <= high
    return covered / draws
