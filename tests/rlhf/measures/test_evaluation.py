"""Judgments of one judge, or of two, as the numbers of metrics/evaluation.json."""

import numpy as np
import pytest

from rlhf.measures.by_prompt import points_by_prompt, preference_by_prompt
from rlhf.measures.evaluation import helped_by_model, judges_agree, rates, rounded


def row(prompt, preferred, policy="ppo", output="o", reference="r", judge="j"):
    return {
        "prompt": prompt,
        "preferred": preferred,
        "policy": policy,
        "output": output,
        "reference": reference,
        "judge_id": judge,
    }


def test_a_prompt_that_several_people_judged_counts_once():
    judged = [row("a", "output"), row("a", "output"), row("a", "reference"), row("b", "tie")]
    assert points_by_prompt(judged) == {"a": pytest.approx(2 / 3), "b": 0.5}
    assert preference_by_prompt(judged) == {"a": "output", "b": "tie"}
    result = rates({"ppo": judged, "sft": []}, 0.95)
    assert result["policies"]["ppo"]["rate"] == pytest.approx(7 / 12)
    assert (result["policies"]["ppo"]["n"], result["policies"]["ppo"]["wins"]) == (2, 2)
    assert list(result["policies"]) == ["ppo"]
    assert result["comparisons"] == {}


def test_a_judge_of_length_is_seen_through_at_equal_length():
    rng = np.random.default_rng(0)
    judged = []
    for i in range(400):  # the output is mostly longer, and the longer text mostly wins
        longer = rng.random() < 0.8
        wins = longer == (rng.random() < 0.9)
        texts = {"output": "w " * (6 if longer else 2), "reference": "w " * (2 if longer else 6)}
        judged.append(row(str(i), "output" if wins else "reference", **texts))
    result = rates({"ppo": judged}, 0.95)["policies"]["ppo"]
    assert result["low"] > 0.6
    assert result["length_controlled"]["low"] < 0.5 < result["length_controlled"]["high"]


def test_outputs_that_are_all_far_longer_have_a_rate_and_say_so():
    judged = [row(str(i), "reference", output="w " * (100 + i % 3)) for i in range(20)]
    result = rates({"ppo": judged}, 0.95)["policies"]["ppo"]["length_controlled"]
    assert (result["longer"], result["slope"]) == (1.0, 0.0)
    assert result["rate"] < 0.1


def test_policies_are_compared_on_the_prompts_that_both_were_judged_on():
    ppo = [row(str(i), "output") for i in range(30)]
    sft = [row(str(i), "reference") for i in range(10, 40)]
    result = rates({"ppo": ppo, "sft": sft}, 0.95)["comparisons"]["ppo_vs_sft"]
    assert (result["n"], result["better"], result["worse"], result["difference"]) == (20, 20, 0, 1.0)
    assert result["p_value"] < 1e-5


def test_agreement_of_judges_is_over_what_both_judged():
    first = {"ppo": [row("a", "output"), row("b", "output"), row("c", "tie")], "sft": [row("a", "output")]}
    second = {"ppo": [row("a", "output"), row("b", "reference")], "sft": [row("a", "output")]}
    result = judges_agree(first, second, 0.95)
    assert (result["n"], result["raw"]) == (3, pytest.approx(2 / 3))
    assert judges_agree(first, {"ppo": [row("z", "tie")]}, 0.95) is None


def test_a_model_helps_few_people():
    rng = np.random.default_rng(1)
    preferred = ["output" if rng.random() < 0.6 else "reference" for _ in range(500)]
    model = [row(str(i), side) for i, side in enumerate(preferred)]
    result = helped_by_model(model[:50], model, 0.95)  # people who agree with the model on all
    assert result["rate"] == pytest.approx(preferred.count("output") / 500, abs=0.02)
    assert result["effective"] > 200 > result["n_human"] == 50
    assert helped_by_model(model, model, 0.95) is None
    assert helped_by_model(model[:1], model, 0.95) is None


def test_json_holds_no_nan():
    assert rounded({"a": [float("nan"), 1 / 3], "b": (1, "x")}) == {"a": [None, 0.333333], "b": [1, "x"]}
