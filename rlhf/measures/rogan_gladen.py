"""The rate that people would give, from a judge's rate and its known errors (Rogan & Gladen 1978).

A judge that prefers an output on a share p of prompts, though it recognises only a share Se of the outputs
that people prefer and a share Sp of the references that people prefer, has seen outputs preferred at the rate
(p + Sp - 1) / (Se + Sp - 1) (Am J Epidemiol 107:71). The interval is the one of Lang & Reiczigel (2014, Prev
Vet Med 113:13), which includes the uncertainty of all three shares and keeps its coverage where they are near
0 or 1. It assumes that the judge errs on these outputs as often as on those that its errors were counted on.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from rlhf.measures.rates import effective_tosses

METHOD = "Rogan-Gladen, interval of Lang and Reiczigel"


@dataclass(frozen=True)
class Corrected:
    """A judge's rate, corrected for the judge's errors.

    Attributes:
        rate: estimate of people's rate, cut to 0..1.
        low, high: interval of the rate.
        method: whose estimate and interval these are.
    """

    rate: float
    low: float
    high: float
    method: str = METHOD


def corrected_rate(
    points: ArrayLike, sensitivity: ArrayLike, specificity: ArrayLike, confidence: float = 0.95
) -> Corrected | None:
    """Correct a judge's rate; see this module.

    Args:
        points: (n) points 0..1 that the judge gave the outputs, one value a prompt.
        sensitivity: (m) points 0..1 that it gave outputs which people preferred to the reference, one value a
            prompt; specificity: (k) points that it gave references which people preferred, likewise.
        confidence: coverage of the interval, 0..1.

    Returns:
        The corrected rate, or None where nothing can be known: a side has no prompt, the judge is right no
        more often than a coin, or no rate of people's is compatible with its judgments, so that it must err
        on these outputs differently from those that its errors were counted on.
    """
    from scipy.special import ndtri

    if not len(points) or not len(sensitivity) or not len(specificity):  # type: ignore[arg-type]
        return None
    z = float(ndtri((1 + confidence) / 2))
    p, n = effective_tosses(points, confidence)
    se, m = effective_tosses(sensitivity, confidence)
    sp, k = effective_tosses(specificity, confidence)
    if se + sp <= 1:
        return None
    # z^2 tosses are added for the rate and two for each of the other shares, half of them heads
    near_p = (n * p + z * z / 2) / (n + z * z)
    near_se, near_sp = (m * se + 1) / (m + 2), (k * sp + 1) / (k + 2)
    youden = near_se + near_sp - 1
    if youden <= 0:
        return None
    near = (near_p + near_sp - 1) / youden
    of_se, of_sp = near_se * (1 - near_se) / (m + 2), near_sp * (1 - near_sp) / (k + 2)
    variance = near_p * (1 - near_p) / (n + z * z) + near**2 * of_se + (1 - near) ** 2 * of_sp
    middle = near + 2 * z * z * (near * of_se - (1 - near) * of_sp)
    reach = z * variance**0.5 / youden
    if middle + reach < 0 or middle - reach > 1:
        return None
    rate, low, high = (
        min(1.0, max(0.0, value)) for value in ((p + sp - 1) / (se + sp - 1), middle - reach, middle + reach)
    )
    return Corrected(rate, min(low, rate), max(high, rate))
