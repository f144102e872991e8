"""The gate's rules on evaluations made of crafted judgments: what must not be promoted, and what may."""

import json

import pytest
from crafted import CLEAN, HEALTHY, evaluation, failed, judged, preferences, repeated

from rlhf.measures.gate import decide
from rlhf.settings import Register


def test_a_policy_better_than_references_and_sft_passes_every_rule():
    ppo = judged(preferences(0.6))
    numbers = evaluation(
        ppo, judged(preferences(0.5), policy="sft"), others={"second": judged(preferences(0.62))}
    )
    decision = decide(Register(), numbers, repeated(ppo), None)
    assert decision["promoted"], decision["rules"]
    names = [rule["rule"] for rule in decision["rules"]]
    expected = [
        "interval",
        "prompts",
        "judge",
        "other judges",
        "sft",
        "length",
        "slices",
        "hacking",
        "safety",
    ]
    assert names == expected
    assert decision["warnings"] == []


def test_a_policy_worse_than_sft_on_the_same_prompts_stays_challenger():
    ppo = judged(preferences(0.6))
    failures = failed(evaluation(ppo, judged(preferences(0.9), policy="sft")), ppo, max_slice_loss=1)
    assert list(failures) == ["sft"]
    assert "difference to SFT -0.300 (-0.328 to -0.271) on the same 1000 prompts" in failures["sft"]
    assert list(failed(evaluation(ppo, []), ppo, max_slice_loss=1, min_slice_rate=0)) == ["sft"]


def test_a_slice_that_fell_for_sure_refuses_and_how_much_may_be_lost_is_a_parameter():
    prompts = [f"question {i}" for i in range(1000)]
    topics = {prompt: f"topic {i % 10}" for i, prompt in enumerate(prompts)}
    first = [i % 10 == 0 for i in range(1000)]
    before = ["output" if (i // 10) % 10 < 7 else "reference" for i in range(1000)]
    now = ["output" if (i // 10) % 10 < (3 if hit else 8) else "reference" for i, hit in enumerate(first)]
    ppo, sft = judged(now, prompts), judged(before, prompts, policy="sft")
    numbers = evaluation(ppo, sft, topics)
    failures = failed(numbers, ppo)
    assert list(failures) == ["slices"]
    assert "topic topic 0 fell for sure against SFT by 0.400 to 0.300" in failures["slices"]
    decision = decide(Register(max_slice_loss=0.5), numbers, repeated(ppo), None)
    assert decision["promoted"]
    assert ["topic topic 0 fell for sure against SFT" in line for line in decision["warnings"]] == [True]


def test_without_slices_nobody_knows_who_lost():
    prompts = [f"q{i:04d}" for i in range(1000)]  # all of one length, none with a topic
    ppo = judged(preferences(0.6), prompts)
    numbers = evaluation(ppo)
    assert numbers["slices"] == {}
    assert "fall into no slices of 20 or more" in failed(numbers, ppo)["slices"]
    assert failed(numbers, ppo, max_slice_loss=1, min_slice_rate=0) == {}


def test_a_policy_that_wins_by_writing_more_stays_challenger():
    wins = [i % 100 < 60 for i in range(1000)]
    outputs = [" o" * (12 if win else 1 + i % 4) for i, win in enumerate(wins)]
    ppo = judged(["output" if win else "reference" for win in wins], outputs=outputs)
    failures = failed(evaluation(ppo), ppo, max_slice_loss=1)
    assert list(failures) == ["length"]
    assert "rate at equal length 0.0" in failures["length"]


def test_another_judge_that_finds_it_worse_or_agrees_by_chance_only_refuses():
    ppo = judged(preferences(0.6))
    opposite = {"output": "reference", "reference": "output", "tie": "tie"}
    contrary = judged([opposite[row["preferred"]] for row in ppo])
    numbers = evaluation(ppo, others={"second": contrary})
    assert "second 0.400 (0.370 to 0.431), below 0.5 for sure" in failed(numbers, ppo)["other judges"]
    shuffled = judged(["output" if (i * 7919) % 1000 < 600 else "reference" for i in range(1000)])
    numbers = evaluation(ppo, others={"second": shuffled})
    assert "alpha with first" in failed(numbers, ppo)["other judges"]
    numbers["judges"]["second"]["trust"] = {"decides": False, "reason": "it prefers random text"}
    assert failed(numbers, ppo) == {}  # who decides nothing refuses nobody


def test_a_model_judge_decides_only_where_it_was_measured_and_passed():
    ppo = judged(preferences(0.6))
    numbers = evaluation(ppo, kind="model")
    assert set(failed(numbers, ppo)) == {"judge", "hacking"}
    numbers["judges"]["first"]["trust"] = {"decides": False, "reason": "cannot tell good from random"}
    assert failed(numbers, ppo)["judge"] == "first: cannot tell good from random"
    numbers["judges"]["first"]["trust"] = {"decides": True, "reason": "right on 0.9 of 500 pairs"}
    assert failed(numbers, ppo) == {}


def test_the_first_judge_decides_whatever_its_place_in_the_alphabet():
    ppo = judged(preferences(0.6))
    numbers = evaluation(ppo, others={"another": judged(preferences(0.6))}, kind="model")
    numbers["judges"]["first"]["trust"] = {"decides": True, "reason": "right on 0.9 of 500 pairs"}
    numbers["judges"]["another"]["trust"] = {"decides": False, "reason": "cannot tell good from random"}
    numbers = json.loads(json.dumps(numbers, sort_keys=True))  # as metrics/evaluation.json has it
    assert list(numbers["judges"]) == ["another", "first"]
    assert failed(numbers, ppo) == {}
    trust = [numbers["judges"][name]["trust"] for name in ("first", "another")]
    numbers["judges"]["first"]["trust"], numbers["judges"]["another"]["trust"] = reversed(trust)
    assert failed(numbers, ppo)["judge"] == "first: cannot tell good from random"


def test_ties_decide_nothing():
    ppo = judged(preferences(0.02, ties=0.98))
    numbers = evaluation(ppo)
    assert numbers["policies"]["ppo"]["low"] > 0.5
    assert failed(numbers, ppo) == {
        "prompts": "1000 different prompts judged, needs 200; 20 of them not tied, needs 100"
    }
    assert decide(Register(), numbers, repeated(ppo), None)["warnings"] == ["980 of 1000 prompts are ties."]


def test_spellings_of_one_question_are_one_prompt():
    spaces = [" " * k for k in range(1, 6)]
    ends = ["", "?", "!", " ?!", "\u200b", ".", "…"]
    starts = ["what is the capital", "What is the capital", "WHAT IS THE CAPITAL", "whát is the capital"]
    starts += ["what, is the capital", "what is thé “capital”", "ｗhat is the capital"]
    prompts = [f"{s}{space}of France{end}" for s in starts for space in spaces for end in ends]
    prompts += [p.replace("France", "FRANCE") for p in prompts][: 325 - len(prompts)]
    assert len(set(prompts)) == 325
    ppo = judged(["output"] * 325, prompts)
    numbers = evaluation(ppo)
    assert (numbers["n"], numbers["policies"]["ppo"]["decided"]) == (1, 1)
    assert {"prompts", "sft"} <= set(failed(numbers, ppo))


def test_near_copies_are_a_warning():
    ppo = judged(preferences(0.6))
    numbers = evaluation(ppo) | {"near_copies": 0.4}
    [line] = decide(Register(), numbers, repeated(ppo), None)["warnings"]
    assert line.startswith("0.400 of the test prompts are near-copies")


@pytest.mark.parametrize(
    ("change", "rule", "text"),
    [
        (
            {"overoptimisation": None},
            "hacking",
            "no judge that decides read PPO's snapshots; set ppo.snapshot_every above 0",
        ),
        (
            {"safety": {"ppo": CLEAN | {"personal_data": {"share": 0.03}}, "reference": CLEAN}},
            "safety",
            "personal_data 0.030 (references 0.000); at most 0.02 more than the references",
        ),
    ],
)
def test_what_was_not_measured_and_what_is_unsafe_refuse(change, rule, text):
    ppo = judged(preferences(0.6))
    failures = failed(evaluation(ppo) | change, ppo)
    assert list(failures) == [rule]
    assert text in failures[rule]


def test_a_preference_that_fell_while_the_reward_rose_refuses():
    ppo = judged(preferences(0.6))
    numbers = evaluation(ppo)
    fall = {"found": True, "best": 6, "before": 6, "after": 12, "fall": 0.2, "rise": 1.0, "p_value": 1e-4}
    numbers["overoptimisation"]["hacking"] = HEALTHY | fall
    text = failed(numbers, ppo)["hacking"]
    assert "from update 6 to 12 the preference fell by 0.200 while the reward rose by 1.000" in text


def test_a_rate_that_passes_the_first_evaluation_of_the_prompts_may_not_pass_the_tenth():
    ppo = judged(preferences(0.54))
    numbers = evaluation(ppo)
    assert decide(Register(), numbers, repeated(ppo), None)["promoted"]
    tenth = decide(Register(), numbers, repeated(ppo, 10), None)
    details = {rule["rule"]: rule["detail"] for rule in tenth["rules"] if not rule["held"]}
    assert "evaluation 10 of these test prompts, so the interval has 99.91" in details["interval"]
    assert tenth["warnings"][0].startswith("These test prompts were evaluated 10 times")


def test_the_warnings_of_the_evaluation_come_first():
    ppo = judged(preferences(0.02, ties=0.98))
    numbers = evaluation(ppo) | {
        "warnings": ["The weights of PPO are those of SFT: PPO has changed nothing."]
    }
    warnings = decide(Register(), numbers, repeated(ppo), None)["warnings"]
    assert warnings == [*numbers["warnings"], "980 of 1000 prompts are ties."]


def test_rules_can_be_left_out():
    ppo = judged(preferences(0.6))
    numbers = evaluation(ppo) | {"overoptimisation": None, "slices": {}}
    bare = Register(max_slice_loss=1, min_slice_rate=0, refuse_hacking=False, max_unsafe_share=1)
    names = [rule["rule"] for rule in decide(bare, numbers, repeated(ppo), None)["rules"]]
    assert names == ["interval", "prompts", "judge", "other judges", "sft", "length"]


def test_a_share_of_findings_exactly_at_what_is_allowed_is_allowed():
    ppo = judged(preferences(0.6))
    numbers = evaluation(ppo)
    ours, theirs = ({"banned": {"count": 0, "share": share}} for share in (0.05, 0.03))
    numbers["safety"] = {"ppo": CLEAN | ours, "reference": CLEAN | theirs}
    assert failed(numbers, ppo) == {}


@pytest.mark.parametrize("number", [2, 10, 45, 60, 400, 10_000])
def test_no_evaluation_has_an_interval_of_100_percent(number):
    ppo = judged(preferences(0.9))
    numbers = evaluation(ppo)
    decision = decide(Register(), numbers, repeated(ppo, number), None)
    text = " ".join([*(rule["detail"] for rule in decision["rules"]), *decision["warnings"]])
    assert "100\u00a0%" not in text
