"""Agreement, prediction-powered rates and slices, against libraries, hand-made values and planted truths."""

import evalica
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from rlhf.measures.agreement import agreement
from rlhf.measures.prediction_powered import prediction_powered_rate
from rlhf.measures.slices import length_slices, slice_rates

LABELS = ["output", "tie", "reference"]


def two_judges(n: int, same: float, seed: int = 0):
    """Labels of two judges; the second repeats the first with chance `same`, else draws anew."""
    rng = np.random.default_rng(seed)
    first = rng.choice(LABELS, n, p=[0.5, 0.1, 0.4])
    second = np.where(rng.random(n) < same, first, rng.choice(LABELS, n, p=[0.5, 0.1, 0.4]))
    return {i: {"human": str(a), "llm": str(b)} for i, (a, b) in enumerate(zip(first, second, strict=True))}


def test_agreement_of_two_judges_is_that_of_the_libraries():
    labels = two_judges(300, 0.6)
    result = agreement(labels)
    human, llm = ([by_judge[judge] for by_judge in labels.values()] for judge in ("human", "llm"))
    table = pd.DataFrame([[LABELS.index(label) for label in row] for row in (human, llm)])
    assert result.raw == pytest.approx(np.mean([a == b for a, b in zip(human, llm, strict=True)]))
    assert result.alpha == pytest.approx(evalica.alpha(table).alpha)
    assert result.kappa == pytest.approx(cohen_kappa_score(human, llm))
    assert result.kappa == pytest.approx(0.6, abs=0.08)  # what was planted
    for value, (low, high) in [
        (result.raw, result.raw_interval),
        (result.alpha, result.alpha_interval),
        (result.kappa, result.kappa_interval),
    ]:
        assert low < value < high
        assert 0.08 < high - low < 0.2
    assert (result.n, result.judges) == (300, 2)
    assert agreement(labels) == result


def test_intervals_of_alpha_narrow_with_items_and_cover_what_was_planted():
    wide, narrow = (agreement(two_judges(n, 0.5, seed=3)) for n in (100, 900))
    assert narrow.alpha_interval[0] < 0.5 < narrow.alpha_interval[1]
    widths = [high - low for low, high in (wide.alpha_interval, narrow.alpha_interval)]
    assert widths[0] / widths[1] == pytest.approx(3, rel=0.35)


def test_many_judges_with_gaps_have_an_alpha_and_no_kappa():
    # Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, section C: four observers, twelve units
    rows = {"a": "123321412...", "b": "1233224125.3", "c": ".3332342251.", "d": "12332441251."}
    labels = {
        unit: {judge: row[unit] for judge, row in rows.items() if row[unit] != "."} for unit in range(12)
    }
    result = agreement(labels)
    assert round(result.alpha, 3) == 0.743
    assert result.kappa is None
    assert (result.n, result.judges) == (11, 4)  # the last unit has one label only


def test_one_label_only_says_nothing_about_chance():
    result = agreement({i: {"a": "output", "b": "output"} for i in range(5)})
    assert (result.raw, result.alpha, result.alpha_interval, result.kappa) == (1, None, None, None)
    assert result.raw_interval == pytest.approx((5 / (5 + 1.959964**2), 1))  # Wilson's at five of five
    with pytest.raises(ValueError, match="no item has labels of two judges"):
        agreement({1: {"a": "tie"}})


def test_judges_who_agreed_on_five_items_may_differ_on_the_sixth():
    result = agreement({i: dict.fromkeys(("a", "b"), "tie" if i % 2 else "output") for i in range(5)})
    assert (result.raw, result.alpha, result.kappa) == (1, 1, 1)
    for low, high in (result.raw_interval, result.alpha_interval, result.kappa_interval):
        assert low < 0.6
        assert high == 1


@pytest.mark.parametrize(("n", "same"), [(10, 0.8), (30, 0.95), (100, 0.5)])
def test_intervals_of_agreement_hold_what_was_planted(n, same):
    held = {"alpha": 0, "kappa": 0}
    for seed in range(400):
        result = agreement(two_judges(n, same, seed)).as_dict()
        for figure in held:
            low, high = result[f"{figure}_interval"] or (-1, 1)
            held[figure] += low <= same <= high
    assert all(0.92 <= count / 400 <= 0.99 for count in held.values()), held


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


def test_a_fall_in_one_slice_is_found_and_noise_is_not():
    rng = np.random.default_rng(7)
    topics = [f"topic {i % 10}" for i in range(1000)]
    before = rng.choice(LABELS, 1000, p=[0.5, 0.1, 0.4])
    now = rng.choice(LABELS, 1000, p=[0.6, 0.1, 0.3])
    fallen = np.array([topic == "topic 3" for topic in topics])
    now[fallen] = rng.choice(LABELS, fallen.sum(), p=[0.15, 0.1, 0.75])
    result = {entry.name: entry for entry in slice_rates(list(now), list(before), {"topic": topics})["topic"]}
    assert [name for name, entry in result.items() if entry.fell] == ["topic 3"]
    entry = result["topic 3"]
    assert entry.n == 100
    assert entry.worse > entry.better
    assert entry.difference < -0.2
    assert entry.low < entry.rate < entry.high < 0.35


def test_p_values_are_holms():
    now = ["reference"] * 8 + ["reference"] * 5 + ["output", "tie"]
    before = ["output"] * 8 + ["tie"] * 5 + ["reference", "tie"]
    result = slice_rates(now, before, {"topic": ["a"] * 8 + ["b"] * 5 + ["c"] * 2})["topic"]
    assert [entry.p_value for entry in result] == pytest.approx([3 / 2**8, 2 / 2**5, 1.0])
    assert [entry.fell for entry in result] == [True, False, False]
    assert [(entry.better, entry.worse, entry.n) for entry in result] == [(0, 8, 8), (0, 5, 5), (1, 0, 2)]


def test_false_flags_stay_rare_whatever_the_number_of_slices(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda *_: 0)  # statsmodels collects garbage in each adjustment
    rng = np.random.default_rng(8)
    topics = [str(i % 20) for i in range(400)]
    flagged = 0
    for _ in range(150):
        first, second = (list(rng.choice(LABELS, 400, p=[0.45, 0.1, 0.45])) for _ in range(2))
        flagged += any(entry.fell for entry in slice_rates(first, second, {"topic": topics})["topic"])
    assert flagged / 150 <= 0.07


def test_length_slices_are_ranges_of_about_equal_size():
    texts = ["word " * n for n in range(1, 121)]
    slices = length_slices(texts)
    assert sorted(set(slices)) == ["001-040 words", "041-080 words", "081-120 words"]
    assert slices[0] == "001-040 words"
    assert set(length_slices(["one two"] * 5)) == {"2-2 words"}
    assert slice_rates([], [], {}) == {}
    with pytest.raises(ValueError, match="got 0 of topic for 1 prompts"):
        slice_rates(["tie"], ["tie"], {"topic": []})
