"""Exact tests and adjusted p values against the libraries whose numbers they are."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from rlhf.measures.exact_tests import holm, mcnemar, sign_test

COUNTS = [(0, 0), (0, 1), (3, 0), (0, 7), (4, 4), (9, 5), (12, 30), (200, 161), (35, 500)]


@pytest.mark.parametrize(("better", "worse"), COUNTS)
def test_tests_of_counts_are_those_of_scipy_and_statsmodels(better: int, worse: int) -> None:
    from scipy.stats import binomtest
    from statsmodels.stats.contingency_tables import mcnemar as reference

    number = better + worse
    one_sided = float(binomtest(better, number, alternative="greater").pvalue) if number else 1.0
    two_sided = float(reference([[0, better], [worse, 0]], exact=True).pvalue) if number else 1.0
    assert sign_test(better, worse) == one_sided
    assert mcnemar(better, worse) == pytest.approx(two_sided, rel=1e-14, abs=0)
    assert mcnemar(better, worse) == mcnemar(worse, better) <= 1


def test_adjusted_p_values_are_those_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(0)
    for number in (1, 2, 3, 8, 40):
        p_values = rng.choice([0.001, 0.01, 0.2, *rng.random(5) ** 3], number).tolist()
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-14)
    assert holm([]) == []


def test_an_evaluation_needs_neither_library() -> None:
    code = """
import sys
from rlhf.measures.judge_checks import prompts_needed
from rlhf.measures.length_control import difference_at_equal_length, length_controlled_rate
from rlhf.measures.overoptimisation import find_hacking
from rlhf.measures.rates import compare_paired
from rlhf.measures.slices import slice_rates
one, other = ["output", "reference", "output"], ["reference", "reference", "tie"]
compare_paired(one, other)
slice_rates(one, other, {"topic": ["a", "a", "b"]})
difference_at_equal_length([1, 0, 1], [3, -2, 1])
length_controlled_rate([1, 0, 1], [3, -2, 1])
find_hacking([1.0, 2.0], [[1, 1, 0.5], [0, 0.5, 0.5]])
prompts_needed(0.7, 0.5, 0.95)
print(*{"scipy.stats", "statsmodels"} & {*sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
