"""Reward-model figures against scikit-learn, hand-made values and planted truths."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import brier_score_loss

from rlhf.measures.calibration import accuracy_by_group, accuracy_ceiling, calibration, length_bias


def pairs(n: int, scale: float = 1.0, seed: int = 0):
    """Margins of a model whose true probability is sigmoid(margin / scale), oriented as labelers chose."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(0, 2, n)
    return np.where(rng.random(n) < expit(margin / scale), margin, -margin)


def test_a_calibrated_model_has_no_calibration_error_and_an_overconfident_one_has():
    good, sure = calibration(pairs(20_000)), calibration(pairs(20_000, scale=3.0))
    assert good.ece < 0.012
    assert 0.1 < sure.ece < 0.25
    assert all(entry.confidence > entry.accuracy for entry in sure.curve[3:])
    assert sure.brier > good.brier
    assert sum(entry.n for entry in good.curve) == good.n == 20_000


def test_brier_is_that_of_scikit_learn_and_ece_by_hand():
    margins = [0.1, 2.0, -2.0, 2.0]  # confidences .525, .881, .881, .881
    result = calibration(margins, bins=5)
    # every pair once in each direction: probabilities of the first text, whether it was preferred
    both = np.concatenate([expit(margins), expit(np.negative(margins))])
    assert result.brier == pytest.approx(brier_score_loss([1] * 4 + [0] * 4, both))
    assert [entry.n for entry in result.curve] == [1, 3]
    assert result.ece == pytest.approx((1 - expit(0.1)) / 4 + abs(2 / 3 - expit(2)) * 3 / 4)
    with pytest.raises(ValueError, match="no pairs"):
        calibration([])


def test_accuracy_by_labeler_group_with_intervals_by_prompt():
    margins = [1, 1, -1, 1] * 25 + [1, -1] * 50
    groups = ["expert"] * 100 + ["spammer"] * 100
    prompts = [i // 4 for i in range(200)]
    result = accuracy_by_group(margins, groups, prompts)
    assert {name: (row.value, row.n) for name, row in result.items()} == {
        "all": (0.625, 200),
        "expert": (0.75, 100),
        "spammer": (0.5, 100),
    }
    alone = accuracy_by_group(pairs(600), ["x"] * 600, range(600))["x"]
    copied = accuracy_by_group(np.repeat(pairs(600), 6), ["x"] * 3600, np.repeat(range(600), 6))["x"]
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high), abs=0.01)
    assert alone.high - alone.low == pytest.approx(
        3.92 * (alone.value * (1 - alone.value) / 600) ** 0.5, rel=0.1
    )
    assert accuracy_by_group([0.0], ["x"], ["p"])["x"].value == 0.5


def test_length_bias_is_the_models_own_and_not_its_labelers():
    rng = np.random.default_rng(1)
    longer = rng.integers(1, 20, 4000) * rng.choice([-1, 1], 4000)  # preferred minus other
    merit = rng.normal(1, 1, 4000)
    fair = length_bias(merit, longer, range(4000))
    biased = length_bias(merit + 0.1 * longer, longer, range(4000))
    assert fair.difference.low < 0 < fair.difference.high
    assert biased.difference.low > 0
    assert biased.shorter_right.value < fair.shorter_right.value - 0.1
    assert biased.labelers == fair.labelers
    assert biased.model.value - biased.labelers.value == pytest.approx(biased.difference.value)
    assert length_bias([1.0], [0], ["p"]) is None
    assert length_bias([1.0], [2], ["p"]).shorter_right is None


def test_the_ceiling_bounds_what_any_model_can_reach():
    rng = np.random.default_rng(2)
    for shares in (np.full(1000, 0.8), rng.choice([0.5, 1.0], 1000), rng.uniform(0.5, 1, 1000)):
        low, high = accuracy_ceiling(float((shares**2 + (1 - shares) ** 2).mean()))
        assert low - 1e-9 <= shares.mean() <= high + 1e-9
    assert accuracy_ceiling(0.68) == pytest.approx((0.68, 0.8))
    assert accuracy_ceiling(1.0) == (1.0, 1.0)
    assert accuracy_ceiling(0.4) == (0.5, 0.5)
