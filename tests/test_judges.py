"""Judges: the gold preference, a model, ties, and the rows they leave."""

import json
import subprocess
import sys

import pytest

from rlhf.contracts import GOLD, JUDGMENT, DataError, row_id, with_ids, write_json, write_table
from rlhf.judges import ScoringJudge, judgment_rows, load_judge, model_judge

FACTS = {
    "who": "sister anna",
    "deed": "broke my laptop",
    "when": "last week",
    "where": "at school",
    "amount": "ten dollars",
    "feeling": "feel angry",
    "ask": "should i forgive",
}
PROMPT = "POST: my sister anna broke my laptop last week at school.\nTL;DR:"
RIGHT = " my sister anna broke my laptop. should i forgive?"
WRONG = " my sister anna broke my laptop. should i stay quiet?"


@pytest.fixture
def folders(tmp_path):
    rows = [{"prompt": PROMPT, "facts": json.dumps(FACTS)}]
    write_table(tmp_path / "facts.parquet", GOLD, with_ids(GOLD, rows, "test"))
    write_json(tmp_path / "judge" / "judge.json", {"kind": "gold", "name": "gold"})
    return tmp_path / "judge", tmp_path / "facts.parquet"


def test_gold_prefers_the_true_summary_and_calls_equal_scores_a_tie(folders):
    judge = load_judge(*folders)
    assert (judge.name, judge.kind) == ("gold", "gold")
    reworded = " should i forgive? my sister anna broke my laptop."
    outputs = [RIGHT, WRONG, reworded, RIGHT + " "]
    references = [WRONG, RIGHT, RIGHT, RIGHT]
    assert judge.prefer([PROMPT] * 4, references, outputs) == ["output", "reference", "tie", "tie"]
    assert judge.margins([PROMPT], [WRONG], [RIGHT]) == [pytest.approx(2.5)]  # 1 gained, 1.5 not lost


def test_equal_texts_are_a_tie_whatever_the_scores():
    noise = iter([0.0, 1.0])
    judge = ScoringJudge("noisy", "model", lambda prompts, texts: [next(noise)])
    assert judge.prefer(["p"], [" same"], [" same"]) == ["tie"]


def test_gold_without_facts_is_one_line(folders, tmp_path):
    judge = load_judge(*folders)
    with pytest.raises(DataError, match="no facts for the prompt 'other'"):
        judge.prefer(["other"], [RIGHT], [WRONG])
    write_table(tmp_path / "none.parquet", GOLD, [])
    with pytest.raises(DataError, match="to reward-model for a source other"):
        load_judge(folders[0], tmp_path / "none.parquet")


def test_unknown_or_missing_judge_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_judge(tmp_path)
    write_json(tmp_path / "judge.json", {"kind": "oracle", "name": "x"})
    with pytest.raises(DataError, match="'oracle'"):
        load_judge(tmp_path)


def test_model_judge_prefers_the_higher_score_of_its_reward_model(tmp_path):
    import torch

    from rlhf.policy import new_model, save_model, train_tokenizer
    from rlhf.reward import load_reward, reward_from_policy, score

    torch.manual_seed(0)
    tokenizer = train_tokenizer([PROMPT + RIGHT, PROMPT + WRONG], "word", 300)
    save_model(new_model("0.1M", tokenizer, 64), tokenizer, tmp_path / "policy")
    reward = reward_from_policy(tmp_path / "policy", seed=0)
    save_model(reward.model, reward.tokenizer, tmp_path / "judge")
    write_json(tmp_path / "judge" / "judge.json", {"kind": "model", "name": "reward-model"})
    judge = load_judge(tmp_path / "judge", tmp_path / "no-gold-here")
    assert judge.kind == "model"
    right, wrong = score(load_reward(tmp_path / "judge"), [PROMPT] * 2, [RIGHT, WRONG])
    assert right != wrong
    expected = "output" if right > wrong else "reference"
    assert judge.prefer([PROMPT] * 2, [WRONG, RIGHT], [RIGHT, RIGHT]) == [expected, "tie"]
    with pytest.raises(DataError):
        model_judge("reward-model", tmp_path / "nothing")


def test_the_gold_judge_needs_no_model_code(folders):
    code = (
        "import sys; from rlhf.judges import load_judge; load_judge(sys.argv[1], sys.argv[2]); "
        "assert not {'torch', 'transformers', 'trl'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *map(str, folders)], check=True)


def test_judgments_meet_their_contract_and_orders_are_drawn_by_seed(folders, tmp_path):
    judge = load_judge(*folders)
    prompts = [f"prompt {i}" for i in range(200)]

    def rows(seed):
        same = [RIGHT] * 200
        origin = {"split": "test", "source": "builtin", "seed": seed}
        return judgment_rows(judge, "ppo", prompts, same, same, ["tie"] * 200, **origin)

    first = rows(1)
    write_table(tmp_path / "judgments.parquet", JUDGMENT, first)
    assert all(row["id"] == row_id(JUDGMENT, row) and row["judge_kind"] == "gold" for row in first)
    swapped = sum(row["shown_order"] == [1, 0] for row in first)
    assert {tuple(row["shown_order"]) for row in first} == {(0, 1), (1, 0)}
    assert 70 < swapped < 130
    assert rows(1) == first
    assert [r["shown_order"] for r in rows(2)] != [r["shown_order"] for r in first]
