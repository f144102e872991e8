"""What is judged, and the rows that a judge makes of it."""

from judged_posts import pairs, preferred

from rlhf.data.contracts import JUDGMENT, row_id
from rlhf.data.table import read_table, write_table
from rlhf.judges.judge import ScoringJudge, blind_pairs


def test_equal_texts_are_a_tie_whatever_the_scores():
    noise = iter([0.0, 1.0])
    judge = ScoringJudge("noisy", "model", lambda prompts, texts: [next(noise)])
    assert preferred(judge, ["p"], [" same"], [" same"]) == ["tie"]


def test_judgments_meet_their_contract_and_orders_are_drawn_by_seed(tmp_path):
    judge = ScoringJudge("length", "model", lambda prompts, texts: [float(len(text)) for text in texts])
    first = judge.judge(pairs(["p"], [" short"], [" much longer"]))
    write_table(tmp_path / "judgments.parquet", JUDGMENT, first)
    (row,) = read_table(tmp_path / "judgments.parquet", JUDGMENT)
    assert row == first[0] | {"extra": None}
    assert row["id"] == row_id(JUDGMENT, row)
    assert (row["preferred"], row["judge_id"], row["judge_kind"]) == ("output", "length", "model")

    prompts = [f"prompt {i}" for i in range(200)]
    orders = [pair["shown_order"] for pair in pairs(prompts, prompts, prompts)]
    swapped = sum(order == [1, 0] for order in orders)
    assert all(sorted(order) == [0, 1] for order in orders)
    assert 70 < swapped < 130
    assert [pair["shown_order"] for pair in pairs(prompts, prompts, prompts)] == orders
    assert [pair["shown_order"] for pair in pairs(prompts, prompts, prompts, seed=2)] != orders
    assert [pair["shown_order"] for pair in pairs(prompts, prompts, prompts, policy="sft")] != orders


def test_a_judgment_keeps_the_conversation_of_its_prompt(tmp_path):
    judge = ScoringJudge("length", "model", lambda prompts, texts: [float(len(text)) for text in texts])
    talk = [{"role": "user", "content": "p"}]
    asked = blind_pairs(
        "ppo",
        [{"prompt": "p", "messages": talk}, {"prompt": "q"}],
        ["a", " a"],
        ["bb", " bb"],
        split="test",
        source="s",
        seed=1,
    )
    write_table(tmp_path / "judgments.parquet", JUDGMENT, judge.judge(asked))
    first, second = read_table(tmp_path / "judgments.parquet", JUDGMENT)
    assert (first["messages"], second["messages"]) == (talk, None)
    assert first["id"] == row_id(JUDGMENT, first) != row_id(JUDGMENT, first | {"messages": None})
