"""Length-controlled preference: the rate at equal length of output and reference.

Judges like length, so a policy may win by writing more. Dubois et al. 2024 (Length-Controlled AlpacaEval,
arXiv:2404.04475) fit a logistic regression of the preference on the difference in length and read it at
difference zero. Here is their model for one policy and one judge:

    P(output preferred) = sigmoid(a + b tanh(d / sd(d))),   d = length of output - length of reference

and the length-controlled rate is sigmoid(a). Their terms for the difficulty of each instruction need many
policies on the same prompts, so they are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


def word_count(text: str) -> int:
    """The length of a text: how many words white space separates."""
    return len(text.split())


@dataclass(frozen=True)
class LengthControlled:
    """A preference rate at equal length.

    Attributes:
        rate: preferred to the reference at length difference zero, 0..1.
        low, high: interval of the rate.
        slope: b, in logits from no difference to a much longer output; above 0 the judge prefers the longer.
        longer: share of outputs longer than their reference. Near 0 or 1 hardly any output is as long as its
            reference, and the rate is an extrapolation.
        n: prompts.
    """

    rate: float
    low: float
    high: float
    slope: float
    longer: float
    n: int


def length_controlled_rate(
    points: ArrayLike, length_differences: ArrayLike, confidence: float = 0.95
) -> LengthControlled:
    """Fit the model of this module and read it at length difference zero.

    Estimated by Firth's (1993) penalised likelihood, which stays finite when one side always wins, so that
    few prompts do not end in a rate of exactly 0 or 1. The interval is symmetric in logits (delta method); as
    in `rlhf.measures.rates.wilson`, ties vary less than coin tosses do and narrow it.

    Args:
        points: (n) one value a prompt, 1 where the output is preferred, 0 where the reference is, 1/2 for a
            tie.
        length_differences: (n) output minus reference, in any unit. Where all are equal, or so far from 0
            that tanh no longer tells them apart, no slope can be known, and the rate is the one without
            length control.
        confidence: coverage of the interval, 0..1.

    Raises:
        ValueError: no judgments, unequal lengths, or points outside 0..1.
    """
    from scipy.special import expit, ndtri

    y, d = np.asarray(points, float), np.asarray(length_differences, float)
    if y.size == 0 or y.shape != d.shape:
        raise ValueError(f"length control needs one length difference a judgment, got {y.size} and {d.size}")
    if ((y < 0) | (y > 1)).any():
        raise ValueError("points must lie between 0 and 1")
    length = np.tanh(d / (d.std() or 1.0))
    columns = [np.ones_like(d), length] if np.ptp(length) > 1e-6 else [np.ones_like(d)]
    x = np.stack(columns, axis=1)
    beta, p = _firth(x, y)

    z = ndtri((1 + confidence) / 2)
    information = (x.T * (p * (1 - p))) @ x
    ties = (x.T * (y * (1 - y))) @ x * (len(y) / (len(y) + z**2))
    bread = np.linalg.inv(information)
    error = np.sqrt(max(0.0, (bread @ (information - ties) @ bread)[0, 0]))
    low, high = expit([beta[0] - z * error, beta[0] + z * error])
    slope = float(beta[1]) if len(beta) > 1 else 0.0
    return LengthControlled(
        float(expit(beta[0])), float(low), float(high), slope, float((d > 0).mean()), len(y)
    )


def difference_at_equal_length(
    differences: ArrayLike, length_differences: ArrayLike, confidence: float = 0.95
) -> tuple[float, float, float, float, float]:
    """How much better one policy is than another where both write equally much.

    The differences in points are regressed on tanh of the difference in length; the intercept is read, with
    an error that holds whatever their variance is (White 1980, in the form HC3).

    Args:
        differences: (n) points of the first policy minus those of the second on the same prompt, -1..1.
        length_differences: (n) length of the first policy's output minus that of the second's, in any unit.
        confidence: coverage of the interval, 0..1.

    Returns:
        difference, lower and upper end of its interval, and the one-sided p values that it is not above 0 and
        not below 0.

    Raises:
        ValueError: no differences, or unequal lengths.
    """
    from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats is slow to load

    y, d = np.asarray(differences, float), np.asarray(length_differences, float)
    if y.size == 0 or y.shape != d.shape:
        raise ValueError(f"needs one length difference a prompt, got {y.size} and {d.size}")
    length = np.tanh(d / (d.std() or 1.0))
    columns = [np.ones_like(d), length] if np.ptp(length) > 1e-6 and len(y) > 2 else [np.ones_like(d)]
    x = np.stack(columns, axis=1)
    bread = np.linalg.inv(x.T @ x)
    beta = bread @ (x.T @ y)
    leverage = np.minimum(((x @ bread) * x).sum(axis=1), 1 - 1e-9)
    residual = (y - x @ beta) / (1 - leverage)
    error = float(np.sqrt((bread @ ((x.T * residual**2) @ x) @ bread)[0, 0]))
    freedom = max(1, len(y) - x.shape[1])
    reach = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    value = float(beta[0])
    if error < 1e-9:
        return value, value, value, float(value <= 1e-9), float(value >= -1e-9)
    p_values = float(stdtr(freedom, -value / error)), float(stdtr(freedom, value / error))
    return value, value - reach, value + reach, *p_values


def _firth(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and fitted probabilities; `x` is (n, k) of full rank, `y` in 0..1."""
    from scipy.special import expit

    beta = np.zeros(x.shape[1])
    for _ in range(100):
        p = expit(x @ beta)
        weight = p * (1 - p)
        bread = np.linalg.inv((x.T * weight) @ x)
        leverage = weight * ((x @ bread) * x).sum(axis=1)
        step = bread @ (x.T @ (y - p + leverage * (0.5 - p)))
        step *= min(1.0, 2.0 / np.abs(step).max(initial=1e-12))  # a whole step may overshoot at the edges
        beta = beta + step
        if np.abs(step).max() < 1e-8:
            break
    return beta, expit(x @ beta)
