"""Exact tests of counts, and p values of several tests at once: what scipy.stats and statsmodels give,
without the time that a stage takes to load these two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sign_test(count: int, others: int) -> float:
    """One-sided p value of a count against a fair coin: that of `count + others` tosses as many or more fall
    so. Without a toss it is 1."""
    from scipy.special import betainc

    return float(betainc(count, others + 1, 0.5)) if count else 1.0


def mcnemar(better: int, worse: int) -> float:
    """Two-sided p value of McNemar's exact test: of the prompts on which two policies differ, `better` and
    `worse` of them could be halves. Without such a prompt it is 1."""
    return min(1.0, 2 * sign_test(max(better, worse), min(better, worse)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values, adjusted for being several (Holm 1979), in their order."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in adjusted]
