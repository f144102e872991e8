"""Prodigy's answers: choices, comparisons, and what a rejected or an ignored example says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from layout_reading import case, rankings, read_path, read_records

from rlhf.data.errors import DataError


def choice(accept: list[Any], answer: str = "accept", number: int = 2, **more: Any) -> dict[str, Any]:
    options = [{"id": key, "text": f"text {key}"} for key in ("a", "b", "c")[:number]]
    asked = {"text": "Say hi", "options": options, "accept": accept, "answer": answer}
    return asked | {"_session_id": "pref-ann", "_view_id": "choice"} | more


def compared(answer: str, **more: Any) -> dict[str, Any]:
    texts = {"input": {"text": "Say hi"}, "accept": {"text": "hi"}, "reject": {"text": "go away"}}
    return texts | {"mapping": {"B": "accept", "A": "reject"}, "answer": answer, "_session_id": "r1"} | more


def test_choices(tmp_path: Path) -> None:
    records = [choice(["b"]), choice(["c"], number=3), choice(["a", "c"], number=3), choice(["a", "b"])]
    items, notes = read_records(tmp_path, records)
    assert rankings(items) == [[2, 1], [2, 2, 1], [1, 2, 1], [1, 1]]
    row = items[0].row
    assert (row["prompt"], row["completions"], row["policies"]) == (
        "Say hi",
        ["text a", "text b"],
        ["a", "b"],
    )
    assert row["labeler_id"] == "pref-ann"
    assert "chosen options are better than the others; within each of the two kinds they tie" in notes


def test_what_says_nothing_is_passed_over_and_counted(tmp_path: Path) -> None:
    records = [
        choice(["a"]),
        choice([]),
        choice(["a"], "reject"),
        choice([], "ignore"),
        choice(["a"], number=1),
    ]
    items, notes = read_records(tmp_path, records)
    assert rankings(items) == [[1, 2]]
    counted = "\n".join(notes)
    for said in (
        "1 accepted examples in which no option is chosen",
        "1 examples with answer 'reject'",
        "1 examples with answer 'ignore'",
        "1 examples with fewer than two options",
    ):
        assert f"passed over: {said}" in counted
    with pytest.raises(DataError, match="nothing in it could be read: passed over: 1 examples with answer"):
        read_records(tmp_path, [choice([], "ignore")])


def test_compared_texts(tmp_path: Path) -> None:
    records = [compared("accept"), compared("reject", _annotator_id="ann"), compared("ignore")]
    items, notes = read_records(tmp_path, records)
    assert rankings(items) == [[1, 2], [2, 1]]
    assert [item.row["labeler_id"] for item in items] == ["r1", "ann"]
    assert (items[0].row["completions"], items[0].row["policies"]) == (["hi", "go away"], ["B", "A"])
    assert any("passed over: 1 examples with answer 'ignore'" in note for note in notes)


def test_notes_and_edits(tmp_path: Path) -> None:
    records = [choice(["b"], user_input="hello there")]
    items, _ = read_records(tmp_path, records)
    assert items[0].row["note"] == "hello there"
    items, _ = read_records(tmp_path, records, edit="user_input")
    edit = items[0].row
    assert (items[0].table, edit["output"], edit["text"], edit["policy"]) == (
        "edits",
        "text b",
        "hello there",
        "b",
    )


def test_a_choice_that_is_no_option_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1: accept names 'z', but the options are a, b"):
        read_records(tmp_path, [choice(["z"])])


@pytest.mark.parametrize("name", ["prodigy-choice.jsonl", "prodigy-compare.jsonl"])
def test_cases(name: str) -> None:
    items, _ = read_path(case(name))
    assert rankings(items) == [[1, 2]] * 5


def test_a_prompt_under_its_own_name_is_no_instruction_with_an_answer(tmp_path: Path) -> None:
    record = choice(["b"])
    record["prompt"] = record.pop("text")
    items, _ = read_records(tmp_path, [record])
    assert (rankings(items), items[0].row["prompt"]) == ([[2, 1]], "Say hi")
