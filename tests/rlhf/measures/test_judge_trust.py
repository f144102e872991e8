"""A judge that is a model is believed only once it is measured: controls, accuracy, both orders."""

import random

import numpy as np

from rlhf.measures.judge_checks import BOTH_ORDERS, TOGETHER
from rlhf.measures.judge_trust import measure
from rlhf.measures.known_pairs import KnownPair, controls, labelers_of, labelled_pairs, one_per_prompt
from rlhf.measures.trust_reasons import USELESS

TEXT = "my sister anna broke the old laptop at school last week and it cost me ten dollars"


def reference(i, length=10):
    return " " + " ".join(random.Random(i).sample(TEXT.split(), length)) + "."


ROWS = [{"prompt": f"prompt {i}", "completion": reference(i)} for i in range(200)]
LABELLED = [KnownPair(row["prompt"], row["completion"], " what a poor answer") for row in ROWS]


def right(share, seed=0):
    """A judge that is right on a share of all pairs."""

    def ask(name, pairs):
        rng = random.Random(f"{seed}/{name}")
        return ["better" if rng.random() < share else "worse" for _ in pairs]

    return ask


def test_controls_are_made_of_the_references_and_are_surely_worse():
    made = controls(ROWS, seed=1)
    assert list(made) == [
        "shuffled words",
        "another prompt's reference",
        "cut in half",
        "repeated words",
        "random words",
    ]
    assert controls(ROWS, seed=1) == made != controls(ROWS, seed=2)
    for name, pairs in made.items():
        assert len({pair.prompt for pair in pairs}) == len(pairs) >= 195
        for pair in pairs:
            assert pair.better == next(r["completion"] for r in ROWS if r["prompt"] == pair.prompt)
            assert pair.worse.split() != pair.better.split(), name
            assert pair.worse.startswith(" ")
    first = {name: pairs[0] for name, pairs in made.items()}
    words = first["shuffled words"].better.split()
    assert sorted(first["shuffled words"].worse.split()) == sorted(words)
    assert first["cut in half"].worse.split() == words[:5]
    assert first["repeated words"].worse.split() == (words[:3] * 4)[:10]
    assert len(first["random words"].worse.split()) == 10
    assert first["another prompt's reference"].worse in {row["completion"] for row in ROWS}


def test_a_text_without_spaces_is_cut_by_characters_and_one_of_one_word_makes_no_control():
    rows = [{"prompt": str(i), "completion": text} for i, text in enumerate(["我的姐姐弄坏了电脑", "x"])]
    made = controls(rows, seed=0)
    assert [pair.worse for pair in made["cut in half"]] == ["我的姐姐"]
    assert sorted(made["shuffled words"][0].worse) == sorted("我的姐姐弄坏了电脑")
    assert {pair.prompt for pair in made["shuffled words"]} == {"0"}
    assert controls([], seed=0) == {}


def test_a_good_judge_decides_and_its_figures_are_there():
    trust = measure(right(0.95), ROWS, LABELLED, seed=0).as_dict()
    assert trust["decides"]
    assert trust["reason"].startswith("agrees with people on 0.9")
    assert trust["reason"].endswith("of 200 held-out prompts and passed 6 controls")
    assert set(trust["accuracy"]) >= {"rate", "low", "high", "n"}
    assert all(row["passed"] for row in trust["controls"])
    assert [row["threshold"] for row in trust["controls"]] == [0.75, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert {"name", "rate", "low", "high", "n", "passed"} <= set(trust["controls"][0])
    assert trust["sensitivity"] is trust["specificity"] is None  # no pair holds a reference


def test_a_coin_is_refused_and_the_reason_says_so_in_one_line():
    trust = measure(right(0.5), ROWS, LABELLED, seed=0, labelers="simulated labelers")
    assert not trust.decides
    assert trust.reason.startswith(
        f"{USELESS}: failed 5 of 6 controls, the worst: prefers the reference in all"
    )
    assert "agrees with simulated labelers on 0." in trust.reason
    assert "\n" not in trust.reason


def test_one_failed_control_refuses_a_judge_that_people_agree_with():
    """A judge that likes length: it may be right on people's pairs, and prefers random words."""

    def ask(name, pairs):
        return ["worse" if name == "control: random words" else "better" for _ in pairs]

    trust = measure(ask, ROWS, LABELLED, seed=0)
    assert not trust.decides
    assert trust.reason == (
        f"{USELESS}: prefers the reference to random words on 0.000 (0.000 to 0.019) of 200 held-out "
        "prompts, and the lower end must lie above 0.5"
    )


def test_a_judge_that_is_little_better_than_a_coin_on_every_kind_is_refused():
    trust = measure(right(0.7), ROWS, LABELLED, seed=0)
    assert [check.name for check in trust.controls if not check.passed] == [TOGETHER]
    assert not trust.decides


def test_labels_that_say_nothing_refuse_a_judge_that_passes_every_control():
    def ask(name, pairs):
        return ["better" if name != "labelled" or i % 2 else "worse" for i, _ in enumerate(pairs)]

    trust = measure(ask, ROWS, LABELLED, seed=0)
    assert all(check.passed for check in trust.controls)
    assert not trust.decides
    assert trust.reason.startswith(f"{USELESS}: agrees with people on 0.500 (0.43")


def test_few_prompts_do_not_do_and_the_reason_says_how_many_would():
    always = right(1.0)
    few = measure(always, ROWS[:8], LABELLED[:5], seed=0)
    assert not few.decides
    assert few.reason.startswith("nothing shows that this judge can tell good from random: failed 6 of 6")
    assert "1.000 (0.676 to 1.000) of 8 held-out prompts" in few.reason
    assert "at this rate 12 prompts would do" in few.reason
    assert "agrees with people on 1.000 (0.566 to 1.000) of 5" in few.reason  # more than 0.5, and too few
    assert measure(always, ROWS[:12], LABELLED[:10], seed=0).decides
    nobody = measure(always, ROWS, [], seed=0)
    assert not nobody.decides
    assert "no pair ordered by people is on held-out prompts" in nobody.reason
    nothing = measure(always, [], LABELLED, seed=0)
    assert not nothing.decides
    assert "no held-out reference" in nothing.reason


def test_a_useless_judge_is_accepted_no_more_often_than_the_level_allows():
    """Right on every control by chance of its making, and a coin on people's pairs: 2.5 % in the limit."""

    def ask(seed):
        coin = right(0.5, seed)
        return lambda name, pairs: coin(name, pairs) if name == "labelled" else ["better"] * len(pairs)

    accepted = [measure(ask(s), ROWS[:20], LABELLED[:60], seed=0).decides for s in range(1000)]
    assert np.mean(accepted) < 0.04


def test_pairs_of_one_prompt_are_one_observation():
    same = [KnownPair("p", " a good answer", f" {i}") for i in range(500)]
    trust = measure(right(1.0), ROWS, same, seed=0)
    assert (trust.accuracy.n, trust.decides) == (1, False)


def test_labelled_pairs_come_from_held_out_splits_and_know_the_reference():
    row = {"prompt": "p", "completions": ["r", "a", "b"], "ranking": [2, 1, 2], "split": "validation"}
    row |= {"policies": ["reference", "sft", "sft"], "source": "simulated"}
    result = labelled_pairs([row, row | {"split": "train"}, row | {"split": "judge"}], ("validation", "test"))
    assert result == [KnownPair("p", "a", "r", "worse"), KnownPair("p", "a", "b", None)]
    assert labelled_pairs([row | {"policies": None}], ("validation",))[0].reference is None
    assert labelers_of([row]) == "simulated labelers"
    assert labelers_of([row | {"source": "references"}]) == "references, which nobody ranked"
    assert labelers_of([row, row | {"source": "feedback"}]) == labelers_of([]) == "people"
    drawn = one_per_prompt([*LABELLED, *LABELLED], 50, seed=0)
    assert len({pair.prompt for pair in drawn}) == len(drawn) == 50


def test_a_judge_that_contradicts_itself_when_pairs_are_turned_round_decides_nothing():
    def first(name, pairs):
        return ["contradiction"] * len(pairs)

    trust = measure(first, ROWS[:10], LABELLED, seed=0, consistent=[False] * 30)
    assert not trust.decides
    assert trust.reason == f"{USELESS}: 10 of 10 pairs contradict themselves when turned round"
    assert [check.name for check in trust.controls][:2] == [BOTH_ORDERS, f"{BOTH_ORDERS}, outputs"]
    # sure of what is plain, and lost where it was asked in earnest
    mostly = measure(right(1.0), ROWS, LABELLED, seed=0, consistent=[True] * 30 + [False] * 70)
    assert not mostly.decides
    assert mostly.reason == f"{USELESS}: 70 of 100 pairs contradict themselves when turned round"
    assert measure(right(1.0), ROWS, LABELLED, seed=0, consistent=[True] * 80 + [False] * 20).decides


def test_one_question_in_many_spellings_is_one_prompt_and_shows_nothing_of_a_judge():
    rows = [row | {"prompt": "what now" + " " * i + "?"} for i, row in enumerate(ROWS)]
    labelled = [KnownPair(row["prompt"], row["completion"], " what a poor answer") for row in rows]
    trust = measure(right(1.0), rows, labelled, seed=1)
    assert not trust.decides
    assert trust.accuracy.n == 1
    assert {check.n for check in trust.controls} == {1}
