"""Rates, intervals and paired comparisons against published and hand-made values."""

import pytest

from rlhf.statistics import compare_paired, preference_rate


def words(wins: int, ties: int, losses: int) -> list[str]:
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
    rate = preference_rate(words(wins, 0, n - wins))
    assert (round(rate.low, 4), round(rate.high, 4)) == (low, high)
    assert rate.rate == wins / n


def test_a_tie_is_half_a_win_and_half_a_loss():
    rate = preference_rate(words(10, 6, 4))
    halves = preference_rate(words(13, 0, 7))
    assert (rate.rate, rate.low, rate.high) == (halves.rate, halves.low, halves.high)
    assert (rate.n, rate.wins, rate.ties, rate.losses) == (20, 10, 6, 4)


def test_interval_stays_within_0_and_1_and_widens_with_confidence():
    assert preference_rate(words(20, 0, 0)).high == 1.0
    assert preference_rate(words(0, 0, 20)).low == 0.0
    wide, narrow = (preference_rate(words(12, 0, 8), confidence) for confidence in (0.99, 0.9))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_mcnemar_counts_only_prompts_judged_differently():
    # 9 better and 1 worse: exact two-sided p = 2 (C(10,0) + C(10,1)) / 2**10
    first = words(9, 0, 1) + words(5, 5, 5)
    second = words(0, 0, 9) + words(1, 0, 0) + words(5, 5, 5)
    paired = compare_paired(first, second)
    assert (paired.better, paired.worse, paired.n) == (9, 1, 25)
    assert paired.p_value == pytest.approx(22 / 1024)
    assert paired.difference == pytest.approx(8 / 25)


def test_bootstrap_interval_agrees_with_the_normal_one_and_repeats_with_its_seed():
    first, second = words(60, 20, 20) * 10, words(20, 20, 60) * 10
    paired = compare_paired(first, second, seed=1)
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
    assert compare_paired(first, second, seed=1) == paired
    assert compare_paired(first, second, seed=2) != paired


def test_equal_policies_differ_by_nothing():
    paired = compare_paired(words(3, 3, 3), words(3, 3, 3))
    assert (paired.difference, paired.low, paired.high, paired.p_value) == (0, 0, 0, 1)


def test_what_is_no_judgment_is_refused():
    with pytest.raises(ValueError, match="no judgments"):
        preference_rate([])
    with pytest.raises(ValueError, match="'draw' is no judgment"):
        preference_rate(["draw"])
    with pytest.raises(ValueError, match="got 2 and 1"):
        compare_paired(["tie", "tie"], ["tie"])
