"""Rates by slice: falls that are real, p values, and slices by length."""

import numpy as np
import pytest

from rlhf.measures.slices import length_slices, slice_rates

LABELS = ["output", "tie", "reference"]


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
