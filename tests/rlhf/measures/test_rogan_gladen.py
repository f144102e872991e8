"""Rates corrected for a judge's known errors: the published example, and intervals that cover the truth."""

import numpy as np
import pytest

from rlhf.measures.rates import wilson
from rlhf.measures.rogan_gladen import corrected_rate


def test_known_errors_are_taken_off_the_rate():
    """Lang and Reiczigel's own figures for 20 of 200, Se 0.9 and Sp 0.95, each counted on 100."""
    points, se, sp = ([1.0] * a + [0.0] * (b - a) for a, b in ((20, 200), (90, 100), (95, 100)))
    result = corrected_rate(points, se, sp)
    assert result.rate == pytest.approx((0.1 + 0.95 - 1) / (0.9 + 0.95 - 1))
    assert result.low < result.rate < result.high
    assert corrected_rate(points, [1.0] * 10_000, [1.0] * 10_000).rate == pytest.approx(0.1)
    perfect = corrected_rate(points, [1.0] * 10_000, [1.0] * 10_000)
    assert (perfect.low, perfect.high) == pytest.approx(wilson(points), abs=0.01)
    assert corrected_rate(points, [0.0, 1.0] * 50, [0.0, 1.0] * 50) is None  # a coin tells nothing
    assert corrected_rate(points, [], sp) is None
    # with a third of the references mistaken, no policy can be preferred as seldom as on 5 of 100 prompts
    assert corrected_rate([1.0] * 5 + [0.0] * 95, [1.0] * 70 + [0.0] * 30, [1.0] * 67 + [0.0] * 33) is None


@pytest.mark.parametrize(
    ("truth", "sens", "spec", "n", "m"),
    [
        (0.6, 0.8, 0.7, 300, 60),
        (0.3, 0.7, 0.75, 1000, 150),
        (0.95, 0.9, 0.85, 100, 40),
        (0.8, 0.75, 0.75, 60, 60),
    ],
)
def test_the_corrected_interval_covers_the_true_rate(truth, sens, spec, n, m):
    rng = np.random.default_rng(7)
    raw, covered = [], []
    for _ in range(400):
        people = rng.random(n) < truth
        judge = np.where(people, rng.random(n) < sens, rng.random(n) > spec).astype(float)
        result = corrected_rate(judge, *((rng.random(m) < p).astype(float) for p in (sens, spec)))
        low, high = wilson(judge)
        raw.append(low <= truth <= high)
        covered.append(result is None or result.low <= truth <= result.high)
    assert np.mean(covered) > 0.93
    assert np.mean(covered) >= np.mean(raw)
