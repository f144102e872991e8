"""Rates, intervals and paired comparisons against published and hand-made values."""

import numpy as np
import pytest
from scipy.stats import bootstrap
from simulation import coverage

from rlhf.measures.rates import clustered_wilson, compare_paired, difference_interval, preference_rate, wilson


def preferences(wins: int, ties: int, losses: int) -> list[str]:
    return ["output"] * wins + ["tie"] * ties + ["reference"] * losses


@pytest.mark.parametrize(
    ("wins", "n", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_is_the_published_one(wins, n, low, high):
    rate = preference_rate(preferences(wins, 0, n - wins))
    assert (round(rate.low, 4), round(rate.high, 4)) == (low, high)
    assert rate.rate == wins / n


def test_wilson_interval_is_that_of_statsmodels_to_the_last_bit():
    from statsmodels.stats.proportion import proportion_confint

    for n in (1, 7, 20, 263, 5000):
        for wins in range(1, n, max(1, n // 40)):
            for confidence in (0.9, 0.95, 0.997):
                ends = proportion_confint(wins / n * n, float(n), alpha=1 - confidence, method="wilson")
                assert wilson([1] * wins + [0] * (n - wins), confidence) == tuple(map(float, ends))
    points, clusters = [0, 1, 0.5, 1, 1], [1, 1, 1, 0, 0]  # tosses that are no whole number round as well
    assert clustered_wilson(points, clusters) == (0.028271340574500647, 0.994684633330068)


def test_a_tie_is_half_a_win_and_half_a_loss_and_varies_less():
    rate = preference_rate(preferences(10, 6, 4))
    halves = preference_rate(preferences(13, 0, 7))
    assert rate.rate == halves.rate
    assert halves.low < rate.low < rate.rate < rate.high < halves.high
    assert (rate.n, rate.wins, rate.ties, rate.losses) == (20, 10, 6, 4)
    ties = preference_rate(preferences(0, 50, 0))
    assert ties.rate == 0.5
    assert 0.46 < ties.low < 0.49  # fifty ties say much, but not that nobody ever wins


def test_judgments_of_one_prompt_are_one_observation():
    preferred = preferences(30, 0, 20)
    prompts = [f"p{i}" for i in range(50)]
    thrice = preference_rate(preferred * 3, prompts=prompts * 3)
    once = preference_rate(preferred)
    assert (thrice.rate, thrice.low, thrice.high, thrice.n) == (once.rate, once.low, once.high, 50)
    assert (thrice.wins, thrice.losses) == (90, 60)
    split = preference_rate(["output", "reference", "tie"], prompts=["a", "a", "b"])
    assert (split.rate, split.n) == (0.5, 2)
    with pytest.raises(ValueError, match="3 judgments of 2 prompts"):
        preference_rate(["tie"] * 3, prompts=["a", "b"])


def test_interval_stays_within_0_and_1_and_widens_with_confidence():
    assert preference_rate(preferences(20, 0, 0)).high == 1.0
    assert preference_rate(preferences(0, 0, 20)).low == 0.0
    wide, narrow = (preference_rate(preferences(12, 0, 8), confidence) for confidence in (0.99, 0.9))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_mcnemar_counts_only_prompts_judged_differently():
    # 9 better and 1 worse: exact two-sided p = 2 (C(10,0) + C(10,1)) / 2**10
    first = preferences(9, 0, 1) + preferences(5, 5, 5)
    second = preferences(0, 0, 9) + preferences(1, 0, 0) + preferences(5, 5, 5)
    paired = compare_paired(first, second)
    assert (paired.better, paired.worse, paired.n) == (9, 1, 25)
    assert paired.p_value == pytest.approx(22 / 1024)
    assert paired.difference == pytest.approx(8 / 25)


def test_paired_interval_agrees_with_the_normal_one():
    first, second = preferences(60, 20, 20) * 10, preferences(20, 20, 60) * 10
    paired = compare_paired(first, second)
    # differences: 40 x 1, 20 x .5, ... by place; their standard error by hand
    differences = [{"output": 1, "tie": 0.5, "reference": 0}[a] for a in first]
    differences = [
        d - {"output": 1, "tie": 0.5, "reference": 0}[b] for d, b in zip(differences, second, strict=True)
    ]
    mean = sum(differences) / 1000
    error = (sum((d - mean) ** 2 for d in differences) / 1000) ** 0.5 / 1000**0.5
    assert paired.difference == pytest.approx(mean)
    assert paired.low == pytest.approx(mean - 1.96 * error, abs=0.003)
    assert paired.high == pytest.approx(mean + 1.96 * error, abs=0.003)


def test_policies_that_never_differed_may_differ_on_the_next_prompts():
    few, many = (compare_paired(preferences(n, n, n), preferences(n, n, n)) for n in (3, 300))
    assert (few.difference, few.p_value) == (0, 1)
    assert few.low < -0.3 < 0.3 < few.high
    assert many.high < 0.01


@pytest.mark.parametrize(("n", "differ"), [(20, 0.05), (60, 0.2), (400, 0.3)])
def test_paired_intervals_hold_the_difference(n, differ):
    rng = np.random.default_rng(4)
    shares, values = [0.7 * differ, 1 - differ, 0.3 * differ], [1, 0, -1]
    truth = float(np.dot(shares, values))

    def draw():
        return difference_interval(rng.choice(values, n, p=shares))

    assert coverage(truth, draw, 1000) >= 0.93


@pytest.mark.parametrize(
    ("clusters", "rate", "alike"),
    [(5, 0.9, 0.3), (10, 0.97, 0.9), (10, 0.7, 0.0), (30, 0.9, 0.9), (100, 0.5, 0.3)],
)
def test_clustered_intervals_hold_the_rate_where_a_percentile_bootstrap_does_not(clusters, rate, alike):
    rng = np.random.default_rng(6)
    spread = (1 - alike) / alike if alike else None

    def draw():
        sizes = rng.integers(1, 7, clusters)
        own = rng.beta(rate * spread, (1 - rate) * spread, clusters) if spread else np.full(clusters, rate)
        place = np.repeat(np.arange(clusters), sizes)
        return clustered_wilson((rng.random(len(place)) < own[place]).astype(float), place.tolist())

    assert coverage(rate, draw, 1000) >= 0.92


def test_five_pairs_that_are_all_right_have_an_interval():
    low, high = clustered_wilson([1.0] * 5, [1, 1, 2, 3, 3])
    assert (low, high) == pytest.approx((3 / (3 + 1.959964**2), 1))  # three prompts, so three tosses
    assert clustered_wilson([1.0, 1.0], ["p", "p"])[0] < 0.25


def test_what_is_no_judgment_is_refused():
    with pytest.raises(ValueError, match="no judgments"):
        preference_rate([])
    with pytest.raises(ValueError, match="'draw' is no judgment"):
        preference_rate(["draw"])
    with pytest.raises(ValueError, match="got 2 and 1"):
        compare_paired(["tie", "tie"], ["tie"])


@pytest.mark.parametrize(
    ("rate", "ties", "n"), [(0.5, 0.0, 150), (0.5, 0.4, 150), (0.2, 0.15, 80), (0.85, 0.1, 400)]
)
def test_95_percent_intervals_of_a_rate_hold_the_truth_in_95_percent_of_draws(rate, ties, n):
    rng = np.random.default_rng(17)
    wins = rate - ties / 2
    shares = [1 - wins - ties, ties, wins]
    assert 0.93 <= coverage(rate, lambda: wilson(rng.choice([0, 0.5, 1], n, p=shares))) <= 0.97


@pytest.mark.parametrize(
    ("shares", "n"), [((0.2, 0.1, 0.5, 0.1, 0.1), 100), ((0.1, 0.05, 0.4, 0.15, 0.3), 200)]
)
def test_95_percent_intervals_of_a_paired_difference_hold_the_truth(shares, n):
    rng = np.random.default_rng(18)
    values = np.array([-1, -0.5, 0, 0.5, 1])
    truth = float(values @ shares)

    def draw():
        return difference_interval(rng.choice(values, n, p=shares))

    assert 0.93 <= coverage(truth, draw) <= 0.97


def test_wilson_of_many_prompts_agrees_with_the_bootstrap_of_scipy():
    points = np.random.default_rng(2).choice([0, 0.5, 1], 300, p=[0.3, 0.2, 0.5])
    theirs = bootstrap((points,), np.mean, method="percentile", n_resamples=10_000, rng=3).confidence_interval
    assert wilson(points) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    assert clustered_wilson(points, range(300)) == pytest.approx(wilson(points), abs=0.002)


@pytest.mark.parametrize("n", [1, 3, 10, 100, 1000, 999])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_of_no_win_the_lower_end_is_0_and_of_no_loss_the_upper_end_1(n, confidence):
    """What rounding leaves above 0 would lie above a bar of 0."""
    assert wilson([0.0] * n, confidence)[0] == 0.0
    assert wilson([1.0] * n, confidence)[1] == 1.0
