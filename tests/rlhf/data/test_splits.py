"""Splits: by prompt however it is spelled, in the shares asked for, and other prompts move none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.contracts import PROMPT, SPLITS
from rlhf.data.conversations import transcript
from rlhf.data.splits import Assigned, assign_splits, split_of
from rlhf.data.table import read_table, write_table
from rlhf.settings import Prepare

SHARES = Prepare(test_share=0.2, judge_share=0.1, validation_share=0.25, near_duplicates=None)
Rows = list[dict[str, Any]]
Assign = Callable[..., Assigned]


@pytest.fixture
def assign(tmp_path: Path) -> Assign:
    """Assigns the rows of a table, and fills their splits in."""

    def assign_rows(rows: Rows, settings: Prepare = SHARES) -> Assigned:
        write_table(tmp_path / "t", PROMPT, rows)
        assigned = assign_splits({"prompts": read_table(tmp_path / "t", PROMPT)}, settings, seed=1)
        for row, number in zip(rows, assigned.split, strict=True):
            row["split"] = SPLITS[number]
        return assigned

    return assign_rows


def test_splits_are_by_prompt_in_the_shares_asked_for(assign: Assign) -> None:
    rows: Rows = [{"prompt": f"q{i}", "split": None} for i in range(4000) for _ in range(2)]
    assign(rows)
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["prompt"], set()).add(row["split"])
    assert all(len(names) == 1 for names in splits.values())
    assert all(row["split"] == split_of(row["prompt"], SHARES, 1) for row in rows[::100])
    count = {
        name: sum(names == {name} for names in splits.values()) for name in ("test", "judge", "validation")
    }
    assert abs(count["test"] - 800) < 100  # four standard deviations
    assert abs(count["judge"] - 400) < 76
    assert abs(count["validation"] - 700) < 96  # a quarter of what is left
    assert [split_of(f"q{i}", SHARES, 1) for i in range(50)] != [
        split_of(f"q{i}", SHARES, 2) for i in range(50)
    ]
    # As assigned ever since: a prompt that moved to another split would be trained on.
    ever = "tr tr tr tr te ju te tr tr tr tr tr"
    assert " ".join(split_of(f"q{i}", SHARES, 1)[:2] for i in range(12)) == ever


def test_other_prompts_move_none_and_a_split_that_a_row_carries_is_kept(assign: Assign) -> None:
    few: Rows = [{"prompt": f"q{i}", "split": None} for i in range(50)]
    more: Rows = [{"prompt": f"other {i}", "split": None} for i in range(50)] + [dict(row) for row in few]
    assign(few)
    assign(more)
    assert more[50:] == few

    carried: Rows = [{"prompt": "Who is it?", "split": None}, {"prompt": " who  is IT?\n", "split": "train"}]
    carried.append({"prompt": "who is it?", "split": "judge"})  # contradicts: for `validate` to find
    assign(carried)
    assert [row["split"] for row in carried] == ["judge", "train", "judge"]  # the most held-out wins


def test_a_split_that_the_source_lacks_is_taken_of_its_rows_for_training(assign: Assign) -> None:
    """Most published sets have rows for training and for test alone."""
    rows: Rows = [{"prompt": f"q{i}", "split": "test" if i < 500 else "train"} for i in range(4500)]
    assigned = assign(rows)
    assert all(row["split"] == "test" for row in rows[:500])
    count = {name: sum(row["split"] == name for row in rows) for name in SPLITS}
    assert count["test"] == 500  # the source has some, so that its share is not taken as well
    assert abs(count["judge"] - 400) < 76
    assert abs(count["validation"] - 900) < 104
    assert assigned.held_back == count["judge"] + count["validation"]

    rows = [{"prompt": f"q{i}", "split": name} for i, name in enumerate([*SPLITS, "train", "train", "train"])]
    assert assign(rows).held_back == 0
    assert [row["split"] for row in rows] == [*SPLITS, "train", "train", "train"]


def test_a_conversation_is_in_the_split_of_the_prompt_that_it_goes_on_from(assign: Assign) -> None:
    def row(*contents: str, split: str | None = None, prompt: str | None = None) -> dict[str, Any]:
        roles = ["user", "assistant"] * len(contents)
        turns = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
        return {"prompt": prompt or transcript(turns), "messages": turns, "split": split}

    for i in range(30):
        first, later, last = row(f"q{i}"), row(f"Q{i}", "a", "r"), row(f"q{i}", "a", "r", "b", "s")
        rows = [last, later, first, row(f"q{i}", prompt="own words"), row(f"q{i}0", "a", "r")]
        assign(rows)
        own = split_of(f"q{i}", SHARES, 1)
        assert [row["split"] for row in rows[:4]] == [own] * 4
        assert rows[4]["split"] == split_of(rows[4]["prompt"], SHARES, 1)  # q1 is no beginning of q10
        rows = [last | {"split": None}, later | {"split": "judge"}, first | {"split": None}]
        assign(rows)
        assert [row["split"] for row in rows] == ["judge"] * 3


LONG = "Please tell me in simple words how a steam engine turns heat into motion on a ship number {}"


def test_near_duplicates_are_in_one_split_the_most_held_out_that_one_of_them_carries(assign: Assign) -> None:
    near = SHARES.model_copy(update={"near_duplicates": 0.8})
    rows: Rows = [{"prompt": f"{word} one kind of words {word}{i}"} for i, word in enumerate("abcdefgh")]
    rows += [{"prompt": LONG.format(i)} for i in ("seven", "eight", "NINE!")]
    alone = [dict(row) for row in rows]
    assign(alone)
    assert len({row["split"] for row in alone[8:]}) > 1  # else this shows nothing
    assigned = assign(rows, near)
    assert (assigned.near, assigned.largest) == (2, 3)
    assert [row["split"] for row in rows[:8]] == [row["split"] for row in alone[:8]]
    assert {row["split"] for row in rows[8:]} == {alone[8]["split"]}  # by the hash of the first

    carried: Rows = [{"prompt": LONG.format(i), "split": None} for i in range(4)]
    carried[1]["split"], carried[3]["split"] = "validation", "test"
    assigned = assign(carried, near)
    assert [row["split"] for row in carried] == ["test", "validation", "test", "test"]
    assert (assigned.apart, assigned.shown) == (1, (LONG.format(1),))


def test_rows_are_numbered_by_prompt_over_all_tables(tmp_path: Path) -> None:
    write_table(tmp_path / "a", PROMPT, [{"prompt": "p"}, {"prompt": None}, {"prompt": "q"}])
    write_table(tmp_path / "b", PROMPT, [{"prompt": "q\r\n"}, {"prompt": "r"}, {"prompt": "Q"}])
    tables = {name: read_table(tmp_path / name, PROMPT) for name in "ab"}
    assigned = assign_splits(tables, SHARES, seed=1)
    assert assigned.prompt.tolist() == [0, 1, 2, 2, 3, 4]
    assert assigned.first.tolist() == [True, False, True, False, True, True]
    assert assigned.split[2] == assigned.split[3] == assigned.split[5]
    ((batch, rows),) = assigned.batches("b", tables["b"], ["prompt"])
    assert (batch.num_rows, rows) == (3, slice(3, 6))


def test_a_table_without_rows_has_no_splits(assign: Assign) -> None:
    assert assign([], SHARES.model_copy(update={"near_duplicates": 0.8})).split.tolist() == []
