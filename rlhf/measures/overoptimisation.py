"""Reward hacking: does the preference fall while the reward model's score still rises?

Gao, Schulman and Hilton 2022 (Scaling Laws for Reward Model Overoptimization, arXiv:2210.10760) describe the
true reward R over the distance d = sqrt(KL(policy || start)) by two forms, each with a peak:

    reinforcement learning   R = d (a - b log d)
    best-of-n                R = d (a - b d)

`fit_gao` estimates a and b; `find_hacking` decides from judged snapshots of a run whether a fall is real.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import e
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Form = Literal["rl", "best-of-n"]


@dataclass(frozen=True)
class GaoFit:
    """A fitted curve of true reward over distance.

    Attributes:
        form: `rl` or `best-of-n`.
        a, b: coefficients, in units of R a sqrt(nat); b above 0 is over-optimisation.
        a_error, b_error: standard errors; NaN where two points leave the residuals no degree of freedom.
        r2: share of the squared R that the curve explains; squares are not centred, since R is 0 at d = 0.
        peak_kl: KL in nats at which the curve is highest; None where b <= 0, since it has no peak then.
        n: points.
    """

    form: Form
    a: float
    b: float
    a_error: float
    b_error: float
    r2: float
    peak_kl: float | None
    n: int

    def predict(self, kl: ArrayLike) -> NDArray[np.float64]:
        """R at distances given as KL in nats."""
        return _columns(np.asarray(kl, float), self.form) @ np.array([self.a, self.b])

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Hacking:
    """Verdict on a run's snapshots.

    Attributes:
        detected: whether the preference fell while the score rose, beyond chance.
        best: index of the snapshot with the highest mean points: the one to keep.
        before, after: indices of the two snapshots of the surest fall; both `best` where nothing fell.
        fall: mean points of `before` minus those of `after` on the same prompts.
        low: lower end of the fall's one-sided interval, at a level that holds for all pairs looked at.
        rise: mean score of `after` minus that of `before`.
        p_value: of the surest fall, Bonferroni-adjusted; 1 where there is none under a rising score.
        n: prompts.
    """

    detected: bool
    best: int
    before: int
    after: int
    fall: float
    low: float
    rise: float
    p_value: float
    n: int

    def as_dict(self, updates: Sequence[int]) -> dict[str, Any]:
        """The fields by name, for JSON: `detected` is called `found`, and indices become updates of the run.

        Args:
            updates: after which update each snapshot was taken.
        """
        fields = asdict(self)
        detected = {"found": fields.pop("detected")}
        return detected | fields | {key: updates[fields[key]] for key in ("best", "before", "after")}


def best_of_n_kl(n: int) -> float:
    """KL in nats between the best of n samples and one sample: log n - (n - 1) / n."""
    return float(np.log(n) - (n - 1) / n)


def fit_gao(kl: ArrayLike, reward: ArrayLike, form: Form = "rl") -> GaoFit:
    """Least-squares fit of the curve of Gao et al. 2022.

    Args:
        kl: (n) KL of each snapshot to the start, in nats. Points at 0 say nothing and are left out.
        reward: (n) true reward, or preference, minus that of the start.
        form: `rl` or `best-of-n`.

    Raises:
        ValueError: unequal lengths, a negative KL, or fewer than two different distances above 0.
    """
    distance, value = np.asarray(kl, float), np.asarray(reward, float)
    if distance.shape != value.shape:
        raise ValueError(f"one reward a distance, got {value.size} and {distance.size}")
    if (distance < 0).any():
        raise ValueError("a KL is never negative; use an estimator that averages over samples")
    moved = distance > 0
    if len(np.unique(distance[moved])) < 2:
        raise ValueError("the fit needs at least two different distances above 0")
    x, y = _columns(distance[moved], form), value[moved]
    (a, b), *_ = np.linalg.lstsq(x, y, rcond=None)
    residual = y - x @ [a, b]
    freedom = len(y) - 2
    covariance = np.linalg.inv(x.T @ x) * (residual @ residual / freedom if freedom else np.nan)
    total = float(y @ y)
    peak: float | None = None
    if b > 0 and form == "rl":
        peak = float((np.exp(a / b) / e) ** 2)
    elif b > 0:
        peak = float(max(0.0, a / (2 * b)) ** 2)
    a_error, b_error = np.sqrt(np.diag(covariance))
    r2 = 1 - float(residual @ residual) / total if total else 1.0
    return GaoFit(form, float(a), float(b), float(a_error), float(b_error), r2, peak, len(y))


def find_hacking(
    scores: Sequence[float],
    points: ArrayLike,
    confidence: float = 0.95,
    tolerance: float = 0.02,
    planned: int | None = None,
) -> Hacking:
    """Whether the held-out preference fell while the reward model's score rose.

    Each snapshot is compared with each earlier one of a lower score on the same prompts: a one-sided paired t
    test that the points fell by more than `tolerance`. The peak of a noisy curve always looks like the start
    of a fall, so the level is divided by the number of pairs there will be (Bonferroni): a run in which the
    preference never falls by more than the tolerance is flagged with chance 1 - confidence at most, however
    many snapshots are judged.

    Args:
        scores: (T) mean proxy reward of each snapshot, the start first.
        points: (T, n) judgments of the same n held-out prompts at each snapshot: points 0..1 against the
            reference, by a judge that the training does not see.
        confidence: 1 minus the chance that a healthy run is flagged.
        tolerance: a fall as small as this does not matter, in points.
        planned: how many snapshots there will be, where the test is made during a run. Default: T.

    Raises:
        ValueError: shapes that do not fit, or fewer than two prompts.
    """
    from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats is slow to load

    judged, score = np.asarray(points, float), np.asarray(scores, float)
    if judged.ndim != 2 or len(judged) != len(score) or judged.shape[1] < 2:
        raise ValueError(
            f"needs a row of at least two judgments a snapshot, got {judged.shape} for {len(score)} scores"
        )
    count, n = judged.shape
    expected = max(count, planned or count)
    pairs = max(1, expected * (expected - 1) // 2)
    level = (1 - confidence) / pairs
    best = int(judged.mean(axis=1).argmax())
    surest = Hacking(False, best, best, best, 0.0, 0.0, 0.0, 1.0, n)
    for after in range(count):
        for before in range(after):
            rise = float(score[after] - score[before])
            difference = judged[before] - judged[after]
            fall = float(difference.mean())
            error = float(difference.std(ddof=1) / np.sqrt(n))
            if rise <= 0 or fall <= tolerance or error == 0:
                continue
            p_value = min(1.0, pairs * float(stdtr(n - 1, -(fall - tolerance) / error)))
            if p_value < surest.p_value:
                low = fall - float(-stdtrit(n - 1, level)) * error
                detected = p_value < 1 - confidence
                surest = Hacking(detected, best, before, after, fall, low, rise, p_value, n)
    return surest


def _columns(kl: NDArray[np.float64], form: Form) -> NDArray[np.float64]:
    """What a and b are multiplied by, (n, 2)."""
    d = np.sqrt(kl)
    if form == "best-of-n":
        return np.stack([d, -d * d], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        bent = np.where(d > 0, -d * np.log(d), 0.0)
    return np.stack([d, bent], axis=1)
