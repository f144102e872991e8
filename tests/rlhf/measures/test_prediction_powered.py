"""One rate from few human judgments and many of a model: the paper's formula, intervals that cover."""

import numpy as np
import pytest

from rlhf.measures.prediction_powered import prediction_powered_rate


def human_and_model(rng, n, more, noise):
    """People prefer the output in 60 %; the model says so too but for a bias and noise."""
    human = (rng.random(n + more) < 0.6).astype(float)
    flipped = rng.random(n + more) < noise
    model = np.where(flipped, (rng.random(n + more) < 0.9), human)
    return human[:n], model[:n], model[n:]


@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_prediction_powered_intervals_hold_the_human_rate(noise):
    rng = np.random.default_rng(5)
    held, widths, alone = 0, [], []
    for _ in range(2000):
        human, model, more = human_and_model(rng, 100, 900, noise)
        result = prediction_powered_rate(human, model, more)
        held += result.low <= 0.6 <= result.high
        widths.append(result.high - result.low)
        alone.append(3.97 * human.std() / 10)
    assert 0.93 <= held / 2000 <= 0.97
    if noise == 1.0:  # a useless model costs nothing
        assert np.mean(widths) < 1.02 * np.mean(alone)
    else:
        assert np.mean(widths) < 0.75 * np.mean(alone)


def test_prediction_powered_rate_is_the_formula_of_the_paper():
    human, model, more = [1, 0, 1, 1, 0, 1], [1, 0, 1, 0, 0, 1], [1, 1, 0, 1, 0, 1, 1, 0]
    result = prediction_powered_rate(human, model, more)
    pooled = np.var(model + more, ddof=1)
    weight = np.cov(human, model)[0, 1] / pooled / (1 + 6 / 8)
    assert result.weight == pytest.approx(weight)
    assert result.rate == pytest.approx(4 / 6 + weight * (5 / 8 - 3 / 6))
    assert result.effective > result.n_human == 6
    with pytest.raises(ValueError, match="at least two human"):
        prediction_powered_rate([1], [1], [1])
    with pytest.raises(ValueError, match="use preference_rate"):
        prediction_powered_rate([1, 0], [1, 0], [])


def test_people_who_agree_on_five_prompts_leave_an_interval():
    result = prediction_powered_rate([1.0] * 5, [1, 1, 0, 1, 1], [1, 0, 1, 1])
    assert result.rate == 1
    assert (result.low, result.high) == pytest.approx((5 / (5 + 1.959964**2), 1))
