"""Agreement of judges against libraries, hand-made values and planted truths."""

import evalica
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from rlhf.measures.agreement import agreement

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
