"""One rate from few human judgments and many of a model, as honest as a rate from the human ones alone.

Prediction-powered inference (Angelopoulos et al. 2023, Science 382:669): a model judges everything, people
judge a random part of it, and their mean difference corrects the model's rate. The interval covers the rate
that people would give to everything, however wrong the model is; the better the model, the narrower it gets.
The weight given to the model is the one of PPI++ (Angelopoulos, Duchi and Zrnic 2023, arXiv:2311.01453), with
which a useless model costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhf.measures.rates import wilson


@dataclass(frozen=True)
class PredictionPowered:
    """A human rate, helped by a model's.

    Attributes:
        rate: estimate of the human rate over everything.
        low, high: interval of the rate.
        weight: of the model, 0 (not used) to 1.
        n_human, n_model: prompts that people judged, prompts that only the model judged.
        effective: how many human judgments alone would give an interval as narrow.
    """

    rate: float
    low: float
    high: float
    weight: float
    n_human: int
    n_model: int
    effective: float


def prediction_powered_rate(
    human: ArrayLike, model: ArrayLike, model_only: ArrayLike, confidence: float = 0.95
) -> PredictionPowered:
    """Combine human and model judgments of one policy.

    The prompts that people judged must be a random part of all; take them by lot, not by difficulty.

    Args:
        human: (n) points 0..1 that people gave, one value a prompt.
        model: (n) points that the model gave to the same prompts.
        model_only: (N) points that the model gave to the other prompts.
        confidence: coverage of the interval, 0..1.

    Raises:
        ValueError: fewer than two human judgments, unequal lengths, or no prompts for the model alone.
    """
    from scipy.special import stdtrit  # Student's t; scipy.stats is slow to load

    y, f, g = (np.asarray(values, float) for values in (human, model, model_only))
    if len(y) < 2 or len(y) != len(f):
        raise ValueError(
            "needs at least two human judgments and the model's on the same prompts, "
            f"got {len(y)} and {len(f)}"
        )
    if len(g) == 0:
        raise ValueError("no prompts that only the model judged; use preference_rate on the human judgments")
    n, more = len(y), len(g)
    spread = np.concatenate([f, g]).var(ddof=1)
    covariance = np.cov(y, f)[0, 1]
    weight = 0.0 if spread == 0 else float(np.clip(covariance / spread / (1 + n / more), 0, 1))
    rate = float(y.mean() + weight * (g.mean() - f.mean()))
    variance = (y - weight * f).var(ddof=1) / n + weight**2 * spread / more
    effective = n if variance == 0 else float(y.var(ddof=1) / variance)
    if weight == 0:  # the human judgments alone: Wilson's interval has a width even where all are alike
        return PredictionPowered(rate, *wilson(y, confidence), weight, n, more, effective)
    reach = float(stdtrit(n - 1, (1 + confidence) / 2) * np.sqrt(variance))
    return PredictionPowered(rate, max(0.0, rate - reach), min(1.0, rate + reach), weight, n, more, effective)
