"""Judges: the gold preference, a model, ties, and the rows they leave."""

import csv
import json
import subprocess
import sys

import pytest

from rlhf.data.contracts import GOLD, JUDGMENT, row_id, with_ids
from rlhf.data.errors import DataError
from rlhf.data.files import write_json
from rlhf.data.table import read_table, write_table
from rlhf.judges.judge import ScoringJudge, blind_pairs
from rlhf.judges.people import human_judge
from rlhf.judges.reward_model import model_judge
from rlhf.settings import Settings, check_settings
from rlhf.world.judges import gold_judge, simulated_judge
from tasks.judging import load_judge

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


def pairs(prompts, references, outputs, policy="ppo", seed=1):
    return blind_pairs(policy, prompts, references, outputs, split="test", source="builtin", seed=seed)


def preferred(judge, prompts, references, outputs):
    return [row["preferred"] for row in judge.judge(pairs(prompts, references, outputs))]


@pytest.fixture
def folders(tmp_path):
    rows = [{"prompt": PROMPT, "facts": json.dumps(FACTS)}]
    write_table(tmp_path / "facts.parquet", GOLD, with_ids(GOLD, rows, "test"))
    return "gold", tmp_path / "facts.parquet"


def test_gold_prefers_the_true_summary_and_calls_equal_scores_a_tie(folders):
    judge = gold_judge(*folders)
    assert (judge.name, judge.kind) == ("gold", "gold")
    reworded = " should i forgive? my sister anna broke my laptop."
    outputs = [RIGHT, WRONG, reworded, RIGHT + " "]
    references = [WRONG, RIGHT, RIGHT, RIGHT]
    assert preferred(judge, [PROMPT] * 4, references, outputs) == ["output", "reference", "tie", "tie"]
    assert judge.margins([PROMPT], [WRONG], [RIGHT]) == [pytest.approx(2.5)]  # 1 gained, 1.5 not lost


def test_equal_texts_are_a_tie_whatever_the_scores():
    noise = iter([0.0, 1.0])
    judge = ScoringJudge("noisy", "model", lambda prompts, texts: [next(noise)])
    assert preferred(judge, ["p"], [" same"], [" same"]) == ["tie"]


def test_gold_without_facts_is_one_line(folders, tmp_path):
    judge = gold_judge(*folders)
    with pytest.raises(DataError, match="no facts for the prompt 'other'"):
        preferred(judge, ["other"], [RIGHT], [WRONG])
    write_table(tmp_path / "none.parquet", GOLD, [])
    with pytest.raises(DataError, match=r"leave gold and simulated out of evaluate\.judges"):
        gold_judge("gold", tmp_path / "none.parquet")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gold", "data/gold/facts.parquet: no such file"),
        ("reward-model", "set prepare.judge_share above 0"),
        ("human", "data/human: holds no judgments"),
        ("llm", "needs evaluate.llm.url and evaluate.llm.model"),
    ],
)
def test_a_judge_that_lacks_something_says_what_in_one_line(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/human").mkdir(parents=True)
    (tmp_path / "data/human/README.md").write_text("no judgments")
    write_json("models/judge/judge.json", {"kind": "none"})
    with pytest.raises(DataError, match=said):
        load_judge(name, Settings(), "answers.jsonl")


def test_the_llm_judge_gets_the_endpoint_and_limits_of_params():
    values = {"judges": ["llm"], "llm": {"url": "http://127.0.0.1:1/v1", "model": "m", "max_requests": 7}}
    judge = load_judge("llm", check_settings({"evaluate": values}, "test"), "answers.jsonl")
    assert (judge.kind, judge.name) == ("model", "llm:m:prompt-1")
    assert (judge.endpoint.url, judge.max_requests, judge.cache) == (
        "http://127.0.0.1:1/v1",
        7,
        "answers.jsonl",
    )


def test_every_file_of_a_folder_is_read_and_a_judgment_counts_once(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [JUDGED | {"judge_id": "ann"}])
    write_jsonl(tmp_path / "b.jsonl", [JUDGED | {"judge_id": "ben"}])
    assert {row["judge_id"] for row in human_judge(tmp_path).rows} == {"ann", "ben"}
    write_jsonl(tmp_path / "b.jsonl", [JUDGED | {"judge_id": "ann"}])
    with pytest.raises(
        DataError, match=r"b\.jsonl: row 1: ann judged this pair in .*a\.jsonl: row 1 already"
    ):
        human_judge(tmp_path)


def test_model_judge_prefers_the_higher_score_of_its_reward_model(tmp_path, monkeypatch):
    import torch

    from rlhf.models.policy import save_model
    from rlhf.models.reward_model import load_reward, reward_from_policy, score
    from rlhf.models.scratch import new_model, train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer([PROMPT + RIGHT, PROMPT + WRONG], "word", 300)
    save_model(new_model("0.1M", tokenizer, 64), tokenizer, tmp_path / "policy")
    reward = reward_from_policy(tmp_path / "policy", seed=0)
    save_model(reward.model, reward.tokenizer, tmp_path / "judge")
    (tmp_path / "models").mkdir()
    write_json(tmp_path / "judge" / "judge.json", {"kind": "model", "name": "reward-model"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge").rename(tmp_path / "models" / "judge")
    judge = load_judge("reward-model", Settings(), "answers.jsonl")
    assert judge.kind == "model"
    right, wrong = score(load_reward("models/judge"), [PROMPT] * 2, [RIGHT, WRONG])
    assert right != wrong
    expected = "output" if right > wrong else "reference"
    assert preferred(judge, [PROMPT] * 2, [WRONG, RIGHT], [RIGHT, RIGHT]) == [expected, "tie"]
    with pytest.raises(DataError):
        model_judge("reward-model", tmp_path / "nothing")


def test_the_gold_judge_needs_no_model_code(folders):
    code = (
        "import sys; from rlhf.judges.judge import gold_judge; gold_judge(sys.argv[1], sys.argv[2]); "
        "assert not {'torch', 'transformers', 'trl'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *map(str, folders)], check=True)


def test_judgments_meet_their_contract_and_orders_are_drawn_by_seed(folders, tmp_path):
    judge = gold_judge(*folders)
    first = judge.judge(pairs([PROMPT], [WRONG], [RIGHT]))
    write_table(tmp_path / "judgments.parquet", JUDGMENT, first)
    (row,) = read_table(tmp_path / "judgments.parquet", JUDGMENT)
    assert row == first[0]
    assert row["id"] == row_id(JUDGMENT, row)
    assert (row["preferred"], row["judge_id"], row["judge_kind"]) == ("output", "gold", "gold")

    prompts = [f"prompt {i}" for i in range(200)]
    orders = [pair["shown_order"] for pair in pairs(prompts, prompts, prompts)]
    swapped = sum(order == [1, 0] for order in orders)
    assert all(sorted(order) == [0, 1] for order in orders)
    assert 70 < swapped < 130
    assert [pair["shown_order"] for pair in pairs(prompts, prompts, prompts)] == orders
    assert [pair["shown_order"] for pair in pairs(prompts, prompts, prompts, seed=2)] != orders
    assert [pair["shown_order"] for pair in pairs(prompts, prompts, prompts, policy="sft")] != orders


@pytest.fixture
def posts(tmp_path):
    """Facts of 1,000 posts; the true summary of each, and one that gets a fact wrong."""
    rows = [{"prompt": f"{PROMPT} {i}", "facts": json.dumps(FACTS)} for i in range(1000)]
    write_table(tmp_path / "posts.parquet", GOLD, with_ids(GOLD, rows, "test"))
    return tmp_path / "posts.parquet", [row["prompt"] for row in rows]


def test_simulated_experts_mostly_see_what_is_right_and_spammers_the_position(posts):
    path, prompts = posts
    asked = pairs(prompts, [WRONG] * 1000, [RIGHT] * 1000)
    experts = simulated_judge({"expert": 1.0}, path, seed=1).judge(asked)
    assert sum(row["preferred"] == "output" for row in experts) > 950
    assert all(row["judge_kind"] == "simulated" for row in experts)
    assert len({row["judge_id"] for row in experts}) == 20
    assert simulated_judge({"expert": 1.0}, path, seed=1).judge(asked) == experts

    spam = simulated_judge({"spammer": 1.0}, path, seed=1).judge(asked)
    assert spam != simulated_judge({"spammer": 1.0}, path, seed=2).judge(asked)
    decided = [row for row in spam if row["preferred"] != "tie"]
    first = sum((row["preferred"] == "output") == (row["shown_order"][0] == 1) for row in decided)
    assert first > 0.65 * len(decided)
    # the order is random, so a liking for the first cancels out
    assert 0.44 < sum(row["preferred"] == "output" for row in decided) / len(decided) < 0.56
    again = simulated_judge({"spammer": 1.0}, path, seed=1).judge(
        pairs(prompts, [RIGHT] * 1000, [RIGHT] * 1000)
    )
    assert {row["preferred"] for row in again} == {"tie"}
    with pytest.raises(DataError, match="know the built-in task only"):
        simulated_judge({"expert": 1.0}, path, seed=1).judge(pairs(["other"], [WRONG], [RIGHT]))


JUDGED = {"prompt": "p", "reference": "r", "output": "o", "policy": "ppo", "preferred": "output"}


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_human_judgments_are_looked_up_by_text_and_policy(tmp_path, suffix):
    rows = [
        JUDGED | {"judge_id": "ann", "shown_order": [1, 0]},
        JUDGED | {"judge_id": "ben", "preferred": "tie", "shown_order": [0, 1]},
        JUDGED | {"judge_id": "ann", "policy": "sft", "preferred": "reference", "shown_order": [0, 1]},
    ]
    path = tmp_path / f"judgments.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, rows)
    elif suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(row | {"shown_order": json.dumps(row["shown_order"])} for row in rows)
    else:
        write_table(path, JUDGMENT, with_ids(JUDGMENT, rows, "x"))
    judge = human_judge(path)
    found = judge.judge(pairs(["p", "q"], ["r", "r"], ["o", "o"]))
    assert [(row["judge_id"], row["preferred"]) for row in found] == [("ann", "output"), ("ben", "tie")]
    assert found[0]["shown_order"] == [1, 0]
    assert {row["judge_kind"] for row in found} == {"human"}
    write_table(tmp_path / "found.parquet", JUDGMENT, found)
    with pytest.raises(DataError, match="none of its 3 judgments"):
        judge.judge(pairs(["p"], ["r"], ["another text"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preferred": "left"}, "row 2: preferred is 'left'; it must be output, tie, reference"),
        ({"judge_kind": "model"}, "row 2: judge_kind is 'model'"),
        ({"shown_order": [1, 1]}, r"row 2: shown_order is \[1, 1\]"),
        ({"prompt": "p"}, "row 2: unnamed judged this pair in .*: row 1 already"),
        ({"output": None}, "row 2: column 'output' is empty"),
    ],
)
def test_unusable_human_judgments_are_one_line(tmp_path, change, message):
    path = write_jsonl(tmp_path / "judgments.jsonl", [JUDGED, JUDGED | {"prompt": "other"} | change])
    with pytest.raises(DataError, match=message):
        human_judge(path)
