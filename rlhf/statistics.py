"""Rates with intervals and paired comparisons, as used for every preference number of this project.

A judgment gives points: 1 when the output is preferred, 0 when the reference is, one half for a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

POINTS = {"output": 1.0, "tie": 0.5, "reference": 0.0}


@dataclass(frozen=True)
class Rate:
    """How often outputs are preferred to references.

    Attributes:
        rate: (wins + ties / 2) / n, 0..1.
        low, high: Wilson interval of the rate.
        n: judged pairs.
        wins, ties, losses: counts that add up to n.
    """

    rate: float
    low: float
    high: float
    n: int
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Paired:
    """Two policies against the same references on the same prompts.

    Attributes:
        difference: mean points of the first minus the second, -1..1.
        low, high: percentile interval of the difference over bootstrap draws of prompts.
        better, worse: prompts on which the first policy has more, fewer points; the test counts only these.
        p_value: exact McNemar test of better against worse, two-sided.
        n: prompts.
    """

    difference: float
    low: float
    high: float
    better: int
    worse: int
    p_value: float
    n: int

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return asdict(self)


def preference_rate(preferred: Sequence[str], confidence: float = 0.95) -> Rate:
    """Rate of `output` among judgments, with its Wilson (1927) interval.

    A tie enters as half a success and half a failure: the count of successes is wins + ties / 2. A tie varies
    less than a coin toss does, so the interval is, if anything, a little too wide.

    Args:
        preferred: `output`, `reference` or `tie` for each judged pair.
        confidence: coverage of the interval, 0..1.

    Raises:
        ValueError: no judgments, or another word among them.
    """
    from statsmodels.stats.proportion import proportion_confint

    points = to_points(preferred)
    if not points:
        raise ValueError("no judgments, so no rate")
    n = len(points)
    low, high = proportion_confint(sum(points), n, alpha=1 - confidence, method="wilson")
    wins, ties, losses = (points.count(value) for value in (1.0, 0.5, 0.0))
    return Rate(sum(points) / n, max(0.0, float(low)), min(1.0, float(high)), n, wins, ties, losses)


def compare_paired(
    first: Sequence[str], second: Sequence[str], confidence: float = 0.95, seed: int = 0, draws: int = 10_000
) -> Paired:
    """Compare two policies that were judged against the same references.

    Args:
        first, second: `output`, `reference` or `tie` for each prompt, in the same order.
        confidence: coverage of the bootstrap interval, 0..1.
        seed: of the bootstrap.
        draws: bootstrap samples.

    Raises:
        ValueError: no judgments, unequal lengths, or another word among them.
    """
    import numpy as np
    from statsmodels.stats.contingency_tables import mcnemar

    a, b = to_points(first), to_points(second)
    if not a or len(a) != len(b):
        raise ValueError(
            f"a paired comparison needs the same prompts on both sides, got {len(a)} and {len(b)}"
        )
    differences = np.subtract(a, b)
    # Only five differences are possible, so resampling prompts is a multinomial draw over their counts.
    values, counts = np.unique(differences, return_counts=True)
    resampled = np.random.default_rng(seed).multinomial(len(a), counts / len(a), size=draws) @ values / len(a)
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    p_value = float(mcnemar([[0, better], [worse, 0]], exact=True).pvalue) if better + worse else 1.0
    return Paired(float(differences.mean()), float(low), float(high), better, worse, p_value, len(a))


def to_points(preferred: Sequence[str]) -> list[float]:
    """Judgments as points: 1, one half or 0.

    Raises:
        ValueError: a word that is no judgment.
    """
    try:
        return [POINTS[word] for word in preferred]
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} is no judgment; use {', '.join(POINTS)}") from None
