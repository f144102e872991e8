"""Over-optimisation: the curves of Gao et al. 2022, and falls that are real."""

import numpy as np
import pytest

from rlhf.measures.overoptimisation import best_of_n_kl, find_hacking, fit_gao

KL = np.array([0, 0.5, 1, 2, 4, 8, 16, 32.0])


@pytest.mark.parametrize("form", ["rl", "best-of-n"])
def test_planted_coefficients_are_recovered(form):
    d = np.sqrt(KL[1:])
    curve = d * (0.6 - 0.2 * (np.log(d) if form == "rl" else d))
    reward = np.concatenate([[0], curve])
    fit = fit_gao(KL, reward, form)
    assert (fit.a, fit.b, fit.r2) == pytest.approx((0.6, 0.2, 1))
    assert fit.predict(KL) == pytest.approx(reward)
    grid = np.linspace(0.01, 400, 400_000)
    assert fit.peak_kl == pytest.approx(grid[fit.predict(grid).argmax()], abs=0.01)
    assert fit.n == 7
    noisy = fit_gao(KL, reward + np.random.default_rng(0).normal(0, 0.02, 8), form)
    assert abs(noisy.b - 0.2) < 4 * noisy.b_error < 0.2


def test_a_curve_that_only_rises_has_no_peak():
    fit = fit_gao(KL, np.sqrt(KL) * (0.2 + 0.1 * np.log(np.maximum(KL, 1)) / 2))
    assert fit.peak_kl is None
    with pytest.raises(ValueError, match="two different distances"):
        fit_gao([0, 1, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="never negative"):
        fit_gao([-1, 1, 2], [0, 1, 2])


def test_best_of_n_distance():
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(4) == pytest.approx(np.log(4) - 0.75)


def snapshots(rng, rates, n=400, kept=0.7):
    """Judgments (T, n) of the same prompts; a prompt mostly keeps its verdict to the next snapshot."""
    level = rng.random(n)
    rows = []
    for rate in rates:
        level = np.where(rng.random(n) < kept, level, rng.random(n))
        rows.append((level < rate).astype(float))
    return np.array(rows)


RISING = np.linspace(0, 3, 10)


def test_a_preference_that_falls_under_a_rising_score_is_hacking():
    rates = [0.5, 0.56, 0.62, 0.65, 0.6, 0.5, 0.4, 0.35, 0.3, 0.25]
    for seed in range(5):
        points = snapshots(np.random.default_rng(seed), rates)
        hacking = find_hacking(RISING, points)
        assert hacking.detected
        assert hacking.best in (2, 3, 4)
        assert hacking.before < hacking.after
        assert hacking.low > 0.02
        assert hacking.p_value < 0.05
        assert hacking.fall == pytest.approx(points[hacking.before].mean() - points[hacking.after].mean())
        assert hacking.rise > 0


@pytest.mark.parametrize("rates", [np.full(10, 0.6), np.linspace(0.5, 0.7, 10)])
def test_a_healthy_run_is_flagged_in_five_percent_of_runs_at_most(rates):
    rng = np.random.default_rng(3)
    flagged = sum(
        find_hacking(RISING, snapshots(rng, rates, n=100), tolerance=0).detected for _ in range(300)
    )
    assert flagged / 300 <= 0.05


def test_a_fall_under_a_falling_score_is_no_hacking():
    points = snapshots(np.random.default_rng(4), [0.7, 0.5, 0.3])
    assert not find_hacking([2, 1, 0], points).detected
    assert find_hacking([0, 1, 2], points).detected


def test_a_small_or_unsure_fall_is_no_hacking_and_the_best_is_kept():
    points = snapshots(np.random.default_rng(5), [0.5, 0.7, 0.68], n=50)
    hacking = find_hacking([0, 1, 2], points)
    assert not hacking.detected
    assert hacking.best == points.mean(axis=1).argmax()
    sure = snapshots(np.random.default_rng(6), [0.7, 0.58], n=400)
    assert find_hacking([0, 1], sure).detected
    assert not find_hacking([0, 1], sure, tolerance=0.2).detected
    during = find_hacking([0, 1], sure, planned=4)  # six pairs of snapshots to come, not one
    assert during.p_value == pytest.approx(6 * find_hacking([0, 1], sure).p_value)
    assert not find_hacking([0.0], sure[:1]).detected
    with pytest.raises(ValueError, match="a row of"):
        find_hacking([0, 1], sure[:1])
