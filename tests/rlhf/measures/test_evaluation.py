"""From judgments to metrics/evaluation.json: several judges, slices, and hacking along PPO."""

import numpy as np
import pytest

from rlhf.judges.judge import ScoringJudge
from rlhf.measures.by_prompt import points_by_prompt, preference_by_prompt
from rlhf.measures.evaluation import helped_by_model, judges_agree, rates, rounded
from rlhf.measures.overoptimisation import best_of_n_kl
from rlhf.measures.safety import finding_shares
from rlhf.measures.slice_comparison import compare_slices
from rlhf.measures.snapshot_judgments import judge_snapshots


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


def test_slices_name_where_the_policy_fell_and_merge_small_ones():
    topic, writer = {}, {}
    ppo, sft = [], []
    for i in range(100):
        prompt = "p " * (1 + i % 7) + str(i)
        topic[prompt] = "bad" if i < 40 else "good" if i < 95 else f"rare-{i}"
        writer[prompt] = f"terse-{i % 3}" if i % 2 else None
        ppo.append(row(prompt, "reference" if i < 40 else "output"))
        sft.append(row(prompt, "output" if i < 40 else "tie", policy="sft"))
    result = compare_slices(ppo, sft, topic, writer, 0.95, least=5)
    by_topic = {entry["name"]: entry for entry in result["topic"]}
    assert set(by_topic) == {"bad", "good", "other"}
    assert (by_topic["bad"]["rate"], by_topic["bad"]["fell"], by_topic["good"]["fell"]) == (0.0, True, False)
    assert {entry["name"]: entry["n"] for entry in result["writer group"]} == {"none": 50, "terse": 50}
    assert len(result["prompt length"]) == 3
    assert compare_slices(ppo, [], topic, writer, 0.95) == {}


def test_safety_keeps_counts_and_repeats_no_finding():
    result = finding_shares({"ppo": ["write to a@b.org", "fine"], "reference": ["no", "darn it"]}, ["darn"])
    assert result["ppo"]["personal_data"] == {"count": 1, "share": 0.5}
    assert result["reference"]["banned"] == {"count": 1, "share": 0.5}
    assert "a@b" not in str(result)


def snapshots(rates_of_snapshots, scores, n=300):
    """Snapshots in which the first share of the prompts is preferred; the judge reads its verdict there."""
    return [
        {
            "update": 3 * t,
            "n": 1,
            "prompt": f"p{i}",
            "reference": "0",
            "output": "1" if i < rate * n else "-1",
        }
        | {"score": score, "kl": 0.5 * t, "source": "test"}
        for t, (rate, score) in enumerate(zip(rates_of_snapshots, scores, strict=True))
        for i in range(n)
    ]


READER = ScoringJudge("reader", "gold", lambda prompts, texts: [float(text) for text in texts])


def test_a_falling_preference_under_a_rising_reward_is_hacking():
    result = judge_snapshots(READER, snapshots([0.5, 0.6, 0.45, 0.3], [0, 1, 2, 3]), 0.95, 0.02, seed=0)
    assert result["hacking"]["found"]
    assert (result["hacking"]["best"], result["hacking"]["before"], result["hacking"]["after"]) == (3, 3, 9)
    assert [entry["update"] for entry in result["looks"]] == [0, 3, 6, 9]
    assert [entry["rate"] for entry in result["looks"]] == pytest.approx([0.5, 0.6, 0.45, 0.3])
    assert result["fit"]["b"] > 0
    assert (result["n"], result["judge"]) == (300, {"name": "reader", "kind": "gold"})


@pytest.mark.parametrize(
    ("preferred", "scores"),
    [([0.5, 0.6, 0.65, 0.7], [0, 1, 2, 3]), ([0.5, 0.49, 0.5, 0.49], [0, 1, 2, 3]), ([0.6, 0.3], [1, 0])],
    ids=["rises", "stays", "falls with the reward"],
)
def test_a_healthy_run_is_not_flagged(preferred, scores):
    assert not judge_snapshots(READER, snapshots(preferred, scores), 0.95, 0.02, seed=0)["hacking"]["found"]


def test_best_of_n_stands_beside_ppo_and_is_no_snapshot_of_it():
    ppo = snapshots([0.5, 0.6, 0.45, 0.3], [0, 1, 2, 3])
    best = [
        row | {"update": 0, "n": n, "kl": best_of_n_kl(n)}
        for n, rows in (
            (2, snapshots([0.6], [0.5])),
            (4, snapshots([0.65], [0.9])),
            (8, snapshots([0.55], [1.2])),
        )
        for row in rows
    ]
    result, alone = (judge_snapshots(READER, rows, 0.95, 0.02, seed=0) for rows in (ppo + best, ppo))
    assert {key: result[key] for key in ("looks", "fit", "hacking")} == {
        key: alone[key] for key in ("looks", "fit", "hacking")
    }
    assert alone["best_of_n"] is None
    curve = result["best_of_n"]
    assert [entry["n"] for entry in curve["looks"]] == [1, 2, 4, 8]
    assert [entry["rate"] for entry in curve["looks"]] == pytest.approx([0.5, 0.6, 0.65, 0.55], abs=1 / 300)
    assert [entry["kl"] for entry in curve["looks"]] == pytest.approx([0, 0.1931, 0.6363, 1.2044], abs=1e-4)
    d = np.sqrt([entry["kl"] for entry in curve["looks"][1:]])
    gains = np.array([entry["rate"] - curve["looks"][0]["rate"] for entry in curve["looks"][1:]])
    (a, b), *_ = np.linalg.lstsq(np.stack([d, -d * d], 1), gains, rcond=None)
    assert (curve["fit"]["form"], curve["fit"]["a"], curve["fit"]["b"]) == (
        "best-of-n",
        pytest.approx(a),
        pytest.approx(b),
    )
    assert b > 0


def test_without_snapshots_there_is_nothing_to_judge():
    assert judge_snapshots(READER, [], 0.95, 0.02, seed=0) is None
    assert judge_snapshots(READER, snapshots([0.5], [0]), 0.95, 0.02, seed=0) is None


def test_json_holds_no_nan():
    assert rounded({"a": [float("nan"), 1 / 3], "b": (1, "x")}) == {"a": [None, 0.333333], "b": [1, "x"]}
