"""A challenger against the champion: noise replaces nobody, and a gain is named."""

import numpy as np
import pytest
from crafted import evaluation, judged, preferences, repeated

from rlhf.measures.champion import against_champion
from rlhf.measures.gate import decide
from rlhf.measures.gate_rules import champion_rule
from rlhf.measures.length_control import difference_at_equal_length
from rlhf.settings import Register


def meet(ours, theirs, number=1, topics=None, **settings):
    """The rule `champion` for these judgments."""
    chosen = Register(**settings)
    comparison = against_champion(
        ours,
        theirs,
        topics or {},
        {},
        confidence=0.95,
        evaluation_number=number,
        margin=chosen.max_champion_loss,
        saving=chosen.min_saving,
    )
    return champion_rule(chosen, {"version": "1", "comparison": comparison})


def draw(rng, rate, n=1000):
    """Judgments of policies with these true rates, on the same prompts of which some are easy."""
    easy = rng.beta(2, 2, n) - 0.5
    table = []
    for mean in rate:
        table.append(["output" if rng.random() < p else "reference" for p in np.clip(mean + easy, 0, 1)])
    return table


@pytest.fixture
def quick(monkeypatch):
    """statsmodels collects garbage in each adjustment, a tenth of a second."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


@pytest.mark.parametrize(("rates", "most"), [((0.6, 0.6), 0.045), ((0.57, 0.6), 0.01)])
def test_an_equal_or_worse_challenger_hardly_ever_replaces_the_champion(quick, rates, most):
    rng = np.random.default_rng(17)
    replaced = 0
    for _ in range(250):
        ours, theirs = draw(rng, rates)
        replaced += meet(judged(ours), judged(theirs)).held
    assert replaced / 250 <= most


def test_a_shorter_challenger_that_is_three_points_worse_hardly_ever_replaces_it(quick):
    rng = np.random.default_rng(18)
    replaced = 0
    for _ in range(150):
        ours, theirs = draw(rng, (0.57, 0.6))
        lengths = [" o" * (2 + k % 2) for k in range(1000)]
        replaced += meet(judged(ours, outputs=lengths), judged(theirs, outputs=[o * 2 for o in lengths])).held
    assert replaced / 150 <= 0.05


def test_a_challenger_better_for_sure_replaces_the_champion_and_says_by_how_much():
    rule = meet(judged(preferences(0.7)), judged(preferences(0.6)))
    assert rule.held
    assert "0.700, the champion (version 1) 0.600 on the same 1000 prompts; difference +0.100" in rule.detail
    assert "better for sure in rate, rate at equal length" in rule.detail


def test_an_equal_challenger_stays_challenger():
    rule = meet(judged(preferences(0.6)), judged(preferences(0.6)))
    assert not rule.held
    assert rule.detail.endswith("better for sure in nothing, so it stays challenger")


def test_later_evaluations_of_the_same_prompts_ask_for_more():
    same = ["output"] * 400 + ["reference"] * 350
    ours = ["output"] * 150 + ["reference"] * 100 + same
    theirs = ["reference"] * 150 + ["output"] * 100 + same
    assert meet(judged(ours), judged(theirs)).held
    assert not meet(judged(ours), judged(theirs), number=50).held


def test_a_gain_in_length_counts_where_the_rate_is_not_lower():
    same, long = preferences(0.6), [" o" * 10] * 1000
    short = meet(judged(same, outputs=[" o" * 8] * 1000), judged(same, outputs=long))
    assert short.held
    assert "better for sure in length, and its rate is not lower by 0.03 for sure" in short.detail
    hardly = meet(judged(same, outputs=[" o" * 19 + " o"] * 1000), judged(same, outputs=[" o" * 21] * 1000))
    assert not hardly.held
    worse = meet(judged(preferences(0.58), outputs=[" o" * 8] * 1000), judged(same, outputs=long))
    assert not worse.held


def test_a_safer_challenger_is_a_gain():
    same = preferences(0.6)
    unsafe = [" write to a@b.org" if k % 50 == 0 else " fine" for k in range(1000)]
    rule = meet(judged(same, outputs=[" fine"] * 1000), judged(same, outputs=unsafe))
    assert rule.held
    assert "better for sure in safety" in rule.detail


def test_a_slice_that_fell_against_the_champion_refuses_although_the_rate_rose():
    prompts = [f"question {i}" for i in range(1000)]
    topics = {prompt: f"topic {i % 10}" for i, prompt in enumerate(prompts)}
    before = ["output" if (i // 10) % 10 < 6 else "reference" for i in range(1000)]
    now = ["output" if (i // 10) % 10 < (2 if i % 10 == 3 else 8) else "reference" for i in range(1000)]
    ours, theirs = judged(now, prompts), judged(before, prompts)
    rule = meet(ours, theirs, topics=topics)
    assert not rule.held
    assert "worse for sure in topic topic 3 fell for sure against the champion by 0.400" in rule.detail
    allowed = meet(ours, theirs, topics=topics, max_slice_loss=0.5)
    assert allowed.held


def test_the_rule_stands_beside_the_others():
    ppo = judged(preferences(0.6))
    champion = {"version": "3", "held": False, "said": "the champion, version 3, cannot be judged"}
    decision = decide(Register(), evaluation(ppo), repeated(ppo), champion)
    assert not decision["promoted"]
    assert decision["rules"][-1] == {"rule": "champion", "held": False, "detail": champion["said"]}


def test_no_prompt_in_common_is_no_comparison():
    ours, theirs = judged(["output"], ["a"]), judged(["output"], ["b"])
    settings = {"confidence": 0.95, "evaluation_number": 1, "margin": 0.03, "saving": 0.1}
    assert against_champion(ours, theirs, {}, {}, **settings) is None


def test_the_difference_at_equal_length_has_its_coverage():
    rng = np.random.default_rng(5)
    held, runs = 0, 1000
    for _ in range(runs):
        longer = rng.normal(0.5, 1, 300)
        change = np.clip(0.1 + 0.4 * np.tanh(longer / longer.std()) + rng.normal(0, 0.5, 300), -2, 2)
        _, low, high, *_ = difference_at_equal_length(change, longer)
        held += low <= 0.1 <= high
    assert 0.93 <= held / runs <= 0.97
    assert difference_at_equal_length([0.0, 0.0], [1, 1]) == (0.0, 0.0, 0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="one length difference a prompt"):
        difference_at_equal_length([], [])


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_few_prompts_in_common_replace_no_champion(n):
    ours, theirs = judged(["output"] * n), judged(["reference"] * n, outputs=[" o" * 9] * n)
    rule = meet(ours, theirs)
    assert not rule.held
    assert f"were judged on {n} prompts in common, needs 100" in rule.detail
