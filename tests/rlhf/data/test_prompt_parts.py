"""What stands beside a prompt and belongs to it is part of the prompt, in every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from layout_reading import read_records

from rlhf.data.errors import DataError

PAIR = {"response_a": "x", "response_b": "y"}
LAYOUTS: list[dict[str, Any]] = [
    {"prompt": "Why?", "chosen": "x", "rejected": "y"},
    {"prompt": "Why?", "completion": "x"},
    {"prompt": "Why?", "response": "x"},
    {"prompt": "Why?", "completion": "x", "label": True},
    {"prompt": "Why?", "completions": ["x", "y"], "ranking": [1, 2]},
    {"question": "Why?", **PAIR, "winner": "A"},
    {"Question": "Why?", **PAIR, "winner": "A"},
    {"question": "Why?", "answers": ["x", "y"], "ranks": [1, 2]},
    {"question": "Why?", "answers": ["x", "y"], "best": 0},
    {"question": "Why?", "answers": [{"text": "x", "rank": 1}, {"text": "y", "rank": 2}]},
    {"question": "Why?", "answer_0": "x", "answer_1": "y", "score_0": 1, "score_1": 0},
    {"prompt": "Why?", "response_0": "x", "response_1": "y", "better_response_id": 0},
]


@pytest.mark.parametrize("record", LAYOUTS)
@pytest.mark.parametrize("name", ["context", "input", "passage"])
def test_a_context_goes_with_its_question(record: dict[str, Any], name: str, tmp_path: Path) -> None:
    items, notes = read_records(tmp_path, [record | {name: "It rained."}])
    assert items[0].row["prompt"] == "Why?\nIt rained."
    assert any(f"column '{name}' stands on a line of its own" in note for note in notes)
    asked = {key: "It rained. Why?" if value == "Why?" else value for key, value in record.items()}
    items, _ = read_records(tmp_path, [asked | {name: "It rained."}])
    assert items[0].row["prompt"] == "It rained. Why?"


@pytest.mark.parametrize("record", LAYOUTS)
def test_a_system_text_is_the_first_turn(record: dict[str, Any], tmp_path: Path) -> None:
    items, _ = read_records(tmp_path, [record | {"system": "Be kind."}])
    assert items[0].row["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Why?"},
    ]


def test_a_system_text_beside_another_and_one_that_is_kept(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    row = {"messages": turns, "completions": ["x", "y"], "ranking": [1, 2]}
    items, _ = read_records(tmp_path, [row | {"system": "Be kind."}])
    assert items[0].row["messages"] == turns
    with pytest.raises(DataError, match="column 'system' and the first message both are the system's"):
        read_records(tmp_path, [row | {"system": "Be brief."}])
    items, _ = read_records(tmp_path, [LAYOUTS[1] | {"context": "It rained."}], keep=["context"])
    assert (items[0].row["prompt"], items[0].row["extra"]) == ("Why?", '{"context": "It rained."}')
