"""Evaluations of the same test prompts: recognised, counted, and chance does not pass."""

import numpy as np
import pytest

from rlhf.measures.alpha_spending import outcome, prompt_sketch, share_prompts, spent_alpha
from rlhf.measures.rates import wilson


def test_twenty_tries_of_a_policy_no_better_than_the_reference_pass_in_five_percent():
    """The prompts are the same each time, so tries of the same difficulty rise and fall together."""
    rng = np.random.default_rng(17)
    runs, tries, n = 400, 20, 1000
    passed = {"plain": 0, "corrected": 0}
    for _ in range(runs):
        chances = rng.beta(2, 2, n)  # how easily each prompt is won; one half on average
        rates = rng.binomial(1, chances, (tries, n)).mean(axis=1)
        for name, confidences in {
            "plain": [0.95] * tries,
            "corrected": [1 - 2 * spent_alpha(k, 0.95) for k in range(1, tries + 1)],
        }.items():
            best = max(
                (k for k in range(tries) if rates[k] > 0.5),
                key=lambda k: rates[k] - wilson_reach(n, confidences[k]),
                default=None,
            )
            if best is not None:
                points = np.repeat([1.0, 0.0], [round(rates[best] * n), n - round(rates[best] * n)])
                passed[name] += wilson(points, confidences[best])[0] > 0.5
    assert passed["plain"] / runs > 0.25
    assert passed["corrected"] / runs <= 0.055


def wilson_reach(n: int, confidence: float) -> float:
    """About how far the lower end lies below the rate: enough to tell which try is the surest."""
    from scipy.stats import norm

    return float(norm.ppf((1 + confidence) / 2)) / 2 / np.sqrt(n)


def test_levels_sum_to_the_error_that_all_evaluations_may_have_together():
    levels = [spent_alpha(k, 0.95) for k in range(1, 2001)]
    assert levels[0] == pytest.approx(0.025)  # the lower end of the plain two-sided interval
    assert sum(levels) == pytest.approx(0.05, abs=1e-4)
    assert levels == sorted(levels, reverse=True)
    with pytest.raises(ValueError, match="counted from 1"):
        spent_alpha(0, 0.95)


def test_a_sketch_tells_parts_of_a_set_from_another_set():
    prompts = [f"question {i}" for i in range(1000)]
    whole = prompt_sketch(prompts)
    assert len(whole) == 64
    assert share_prompts(whole, prompt_sketch(prompts[:999]))
    assert share_prompts(prompt_sketch([p.upper() + "?!" for p in prompts]), whole)
    assert share_prompts(whole, prompt_sketch(prompts[500:600]))
    assert share_prompts(prompt_sketch(prompts[:20]), prompt_sketch(prompts[10:30]))
    assert not share_prompts(whole, prompt_sketch([f"another {i}" for i in range(1000)] + prompts[:10]))
    assert not share_prompts([], whole)


def test_the_same_outputs_judged_the_same_way_are_one_evaluation():
    rows = [{"prompt": str(i), "output": "o", "preferred": "output"} for i in range(5)]
    assert outcome(rows) == outcome(rows[::-1])
    assert outcome(rows) != outcome([*rows[:4], rows[4] | {"preferred": "tie"}])
