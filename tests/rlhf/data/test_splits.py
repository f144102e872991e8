"""Splits: by prompt however it is spelled, in the shares asked for, and other prompts move none."""

from __future__ import annotations

from typing import Any

from rlhf.data.conversations import transcript
from rlhf.data.splits import assign_splits, split_of
from rlhf.settings import Prepare

SHARES = Prepare(test_share=0.2, judge_share=0.1, validation_share=0.25)


def test_splits_are_by_prompt_in_the_shares_asked_for() -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"q{i}", "split": None} for i in range(4000) for _ in range(2)]
    assign_splits(rows, SHARES, seed=1)
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["prompt"], set()).add(row["split"])
    assert all(len(names) == 1 for names in splits.values())
    count = {
        name: sum(names == {name} for names in splits.values()) for name in ("test", "judge", "validation")
    }
    assert abs(count["test"] - 800) < 100  # four standard deviations
    assert abs(count["judge"] - 400) < 76
    assert abs(count["validation"] - 700) < 96  # a quarter of what is left
    assert [split_of(f"q{i}", SHARES, 1) for i in range(50)] != [
        split_of(f"q{i}", SHARES, 2) for i in range(50)
    ]


def test_other_prompts_move_none_and_a_split_that_a_row_carries_is_kept() -> None:
    few = [{"prompt": f"q{i}", "split": None} for i in range(50)]
    more = [{"prompt": f"other {i}", "split": None} for i in range(50)] + [dict(row) for row in few]
    assign_splits(few, SHARES, seed=1)
    assign_splits(more, SHARES, seed=1)
    assert more[50:] == few

    carried = [{"prompt": "Who is it?", "split": None}, {"prompt": " who  is IT?\n", "split": "judge"}]
    carried.append({"prompt": "who is it?", "split": "train"})  # contradicts: for `validate` to find
    assign_splits(carried, SHARES, seed=1)
    assert [row["split"] for row in carried] == ["judge", "judge", "train"]


def test_a_conversation_is_in_the_split_of_the_prompt_that_it_goes_on_from() -> None:
    def row(*contents: str, split: str | None = None, prompt: str | None = None) -> dict[str, Any]:
        roles = ["user", "assistant"] * len(contents)
        turns = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
        return {"prompt": prompt or transcript(turns), "messages": turns, "split": split}

    for i in range(30):
        first, later, last = row(f"q{i}"), row(f"Q{i}", "a", "r"), row(f"q{i}", "a", "r", "b", "s")
        rows = [last, later, first, row(f"q{i}", prompt="own words"), row(f"q{i}0", "a", "r")]
        assign_splits(rows, SHARES, seed=1)
        own = split_of(f"q{i}", SHARES, 1)
        assert [row["split"] for row in rows[:4]] == [own] * 4
        assert rows[4]["split"] == split_of(rows[4]["prompt"], SHARES, 1)  # q1 is no beginning of q10
        rows = [last | {"split": None}, later | {"split": "judge"}, first | {"split": None}]
        assign_splits(rows, SHARES, seed=1)
        assert [row["split"] for row in rows] == ["judge"] * 3
