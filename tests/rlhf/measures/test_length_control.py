"""The rate at equal length: coverage, agreement with statsmodels, and the edges."""

import numpy as np
import pytest
from scipy.special import expit
from simulation import coverage

from rlhf.measures.length_control import length_controlled_rate


def judged_by_length(rng, n, at_zero, slope, shift, ties):
    """Points of a judge who likes length, and length differences (standard deviation 12 words)."""
    z = rng.normal(shift, 1, n)
    p = expit(at_zero + slope * np.tanh(z))
    tie = 2 * ties * np.minimum(p, 1 - p)
    u = rng.random(n)
    return np.where(u < tie, 0.5, np.where(u < tie / 2 + p, 1.0, 0.0)), 12 * z


@pytest.mark.parametrize(
    ("at_zero", "slope", "shift", "ties", "n"), [(0.0, 1.0, 0.7, 0.0, 150), (-1.2, 1.5, 0.5, 0.3, 300)]
)
def test_95_percent_intervals_of_the_length_controlled_rate_hold_the_truth(at_zero, slope, shift, ties, n):
    rng = np.random.default_rng(19)

    def draw():
        rate = length_controlled_rate(*judged_by_length(rng, n, at_zero, slope, shift, ties))
        return rate.low, rate.high

    assert 0.93 <= coverage(expit(at_zero), draw) <= 0.97


def test_length_control_takes_off_what_length_alone_won():
    points, differences = judged_by_length(np.random.default_rng(0), 5000, 0.0, 2.0, 1.0, 0.2)
    controlled = length_controlled_rate(points, differences)
    assert points.mean() > 0.7
    assert controlled.low < 0.5 < controlled.high
    assert controlled.slope == pytest.approx(2.0, abs=0.2)
    assert controlled.longer == pytest.approx(0.84, abs=0.02)
    assert controlled.n == 5000


def test_length_control_agrees_with_statsmodels_where_there_is_plenty():
    import statsmodels.api as sm

    points, differences = judged_by_length(np.random.default_rng(1), 4000, 0.5, 1.0, 0.3, 0.0)
    x = sm.add_constant(np.tanh(differences / differences.std()))
    fitted = sm.Logit(points, x).fit(disp=0)
    controlled = length_controlled_rate(points, differences)
    low, high = expit(fitted.conf_int()[0])
    assert controlled.rate == pytest.approx(expit(fitted.params[0]), abs=5e-4)
    assert (controlled.low, controlled.high) == pytest.approx((low, high), abs=5e-4)
    assert controlled.slope == pytest.approx(fitted.params[1], abs=0.01)


def test_length_control_at_the_edges():
    always = length_controlled_rate([1.0] * 40, range(-20, 20))  # one side always wins: still a finite rate
    assert 0.5 < always.low < always.rate < 1
    same = length_controlled_rate([1.0, 0.0, 0.0, 0.5] * 20, [3] * 80)  # no slope to be known
    assert (same.slope, same.rate) == (0.0, pytest.approx(0.375, abs=0.01))
    assert length_controlled_rate([0.5] * 40, range(-20, 20)).rate == pytest.approx(0.5)
    with pytest.raises(ValueError, match="got 0 and 0"):
        length_controlled_rate([], [])
    with pytest.raises(ValueError, match="between 0 and 1"):
        length_controlled_rate([2.0], [1])
