"""Rates with intervals and paired comparisons, as used for every preference number of this project.

A judgment gives points: 1 when the output is preferred, 0 when the reference is, one half for a tie. Where a
prompt was judged several times, its mean points count as one observation: prompts are what was sampled.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

POINTS = {"output": 1.0, "tie": 0.5, "reference": 0.0}


@dataclass(frozen=True)
class Rate:
    """How often outputs are preferred to references.

    Attributes:
        rate: mean points, 0..1; with one judgment a prompt (wins + ties / 2) / n.
        low, high: Wilson interval of the rate.
        n: judged prompts.
        wins, ties, losses: counts of judgments.
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


def preference_rate(
    preferred: Sequence[str], confidence: float = 0.95, prompts: Sequence[Hashable] | None = None
) -> Rate:
    """Rate of `output` among judgments, a tie counting one half, with its Wilson (1927) interval.

    Args:
        preferred: `output`, `reference` or `tie` for each judgment.
        confidence: coverage of the interval, 0..1.
        prompts: what each judgment is about, where some prompts were judged more than once. Their judgments
            are averaged first, since they are not independent. Default: each is a prompt of its own.

    Raises:
        ValueError: no judgments, another word among them, or not one prompt a judgment.
    """
    points = to_points(preferred)
    if not points:
        raise ValueError("no judgments, so no rate")
    observed = np.array(points) if prompts is None else prompt_means(points, prompts)
    low, high = wilson(observed, confidence)
    wins, ties, losses = (points.count(value) for value in (1.0, 0.5, 0.0))
    return Rate(float(observed.mean()), low, high, len(observed), wins, ties, losses)


def wilson(points: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson interval of the mean of independent points between 0 and 1.

    For points of 0 and 1 it is Wilson's own. A tie varies less than a coin toss does: points of mean p have
    the variance p (1 - p) - mean(x (1 - x)), and the interval is taken at the number of coin tosses that
    would vary as little (the effective sample size of survey sampling, Kish 1965). The z^2 coin tosses that
    Wilson's interval adds to the sample are added here too, so that ties alone do not make an interval of
    width 0.

    Args:
        points: (n) values in 0..1.
        confidence: coverage, 0..1.
    """
    from statsmodels.stats.proportion import proportion_confint

    mean, effective = effective_tosses(points, confidence)
    low, high = proportion_confint(mean * effective, effective, alpha=1 - confidence, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def effective_tosses(points: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Mean of independent points between 0 and 1, and the number of coin tosses whose share would vary as
    little; see `wilson`."""
    from scipy.stats import norm

    x = np.asarray(points, float)
    n, mean, tosses = len(x), float(x.mean()), norm.ppf((1 + confidence) / 2) ** 2
    toss = mean * (1 - mean)
    if toss == 0:
        return mean, float(n)
    return mean, float(n * toss / (toss - n / (n + tosses) * (x * (1 - x)).mean()))


def bootstrap_mean(
    points: ArrayLike, confidence: float = 0.95, seed: int = 0, draws: int = 10_000
) -> tuple[float, float]:
    """Percentile interval of a mean over bootstrap draws of prompts.

    Args:
        points: (n) one value a prompt; see `prompt_means`.
        confidence: coverage, 0..1.
        seed: of the draws.
        draws: bootstrap samples.
    """
    # Few different values: resampling prompts is a multinomial draw over their counts.
    values, counts = np.unique(np.asarray(points, float), return_counts=True)
    n = int(counts.sum())
    resampled = np.random.default_rng(seed).multinomial(n, counts / n, size=draws) @ values / n
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


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
    from statsmodels.stats.contingency_tables import mcnemar

    a, b = to_points(first), to_points(second)
    if not a or len(a) != len(b):
        raise ValueError(
            f"a paired comparison needs the same prompts on both sides, got {len(a)} and {len(b)}"
        )
    differences = np.subtract(a, b)
    low, high = bootstrap_mean(differences, confidence, seed, draws)
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    p_value = float(mcnemar([[0, better], [worse, 0]], exact=True).pvalue) if better + worse else 1.0
    return Paired(float(differences.mean()), low, high, better, worse, p_value, len(a))


def to_points(preferred: Sequence[str]) -> list[float]:
    """Judgments as points: 1, one half or 0.

    Raises:
        ValueError: a word that is no judgment.
    """
    try:
        return [POINTS[word] for word in preferred]
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} is no judgment; use {', '.join(POINTS)}") from None


def prompt_means(points: Sequence[float], prompts: Sequence[Hashable]) -> NDArray[np.float64]:
    """Mean points of each prompt, in the order in which the prompts first appear.

    Raises:
        ValueError: not one prompt a judgment.
    """
    if len(points) != len(prompts):
        raise ValueError(f"{len(points)} judgments of {len(prompts)} prompts; give one prompt a judgment")
    number: dict[Hashable, int] = {}
    index = [number.setdefault(prompt, len(number)) for prompt in prompts]
    return np.bincount(index, weights=points) / np.bincount(index)
