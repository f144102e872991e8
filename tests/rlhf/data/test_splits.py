"""Splits: by prompt however it is spelled, in the shares asked for, and other prompts move none."""

from __future__ import annotations

from typing import Any

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
