"""A check of a judge: how often it was right on one kind of question, and whether that is often enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rlhf.measures.rates import wilson

ACCURACY = 0.5  # against people, who disagree among themselves: no more than a coin's can be asked for
KIND = 0.5  # against each kind of text that is surely worse: no kind may fool the judge as it would a coin
CONTROLS = 0.75  # over all kinds: half-way from a coin to a judge that is always right
CONSISTENT = 0.5  # pairs shown in both orders: a judge that mostly contradicts itself knows nothing
LEAST = 10  # prompts; with fewer, Wilson's interval leaves out more than its level

BOTH_ORDERS = "both orders"
TOGETHER = "all controls together"


@dataclass(frozen=True)
class Check:
    """How often a judge was right on one kind of question.

    Attributes:
        name: of the kind.
        rate: mean over prompts, 0..1, a tie or a contradiction counting one half.
        low, high: Wilson interval of the rate.
        n: prompts, or pairs where each is a question of its own.
        threshold: what `low` must exceed.
    """

    name: str
    rate: float
    low: float
    high: float
    n: int
    threshold: float

    @property
    def passed(self) -> bool:
        """Whether the judge is surely better than the threshold."""
        return self.low > self.threshold and self.n >= LEAST

    @property
    def text(self) -> str:
        """What the judge did at this rate, as the predicate of a sentence."""
        if self.name == "accuracy":
            return "agrees with the labelers"
        if self.name.startswith(BOTH_ORDERS):
            return self.name.replace(BOTH_ORDERS, "says the same in both orders")
        if self.name == TOGETHER:
            return "prefers the reference in all controls together"
        return f"prefers the reference to {self.name}"

    def estimate(self) -> dict[str, Any]:
        """`rate`, `low`, `high` and `n`, for JSON."""
        return {key: getattr(self, key) for key in ("rate", "low", "high", "n")}

    def as_dict(self) -> dict[str, Any]:
        """`estimate`, and `name`, `words` (the text), `threshold`, `passed` and `must`, for JSON.

        `must` is always true: every check has to be passed. It stays so that the same data give the same
            bytes.
        """
        judged = {"name": self.name, "words": self.text, "threshold": self.threshold, "passed": self.passed}
        return self.estimate() | judged | {"must": True}


def check_of(name: str, points: Sequence[float], threshold: float, confidence: float) -> Check:
    """The check of a judge that got these points.

    Args:
        name: of the kind of question.
        points: 0..1, one value a prompt.
        threshold: what the lower end of the interval must exceed.
        confidence: coverage of the interval, 0..1.
    """
    low, high = wilson(points, confidence)
    return Check(name, fmean(map(float, points)), low, high, len(points), threshold)


def prompts_needed(rate: float, threshold: float, confidence: float) -> int | None:
    """How many prompts a judge of this rate needs to pass; None where the rate is too low for any number."""
    from scipy.special import ndtri

    if rate <= threshold:
        return None
    # Wilson's lower end is the p with (rate - p)^2 = z^2 p (1 - p) / n; set p to the threshold
    z = float(ndtri((1 + confidence) / 2))
    return max(LEAST, math.floor(z * z * threshold * (1 - threshold) / (rate - threshold) ** 2) + 1)
