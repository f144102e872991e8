"""The stage `prepare`: normal form, ids and prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Workspace
from own_rows import own, prepared, rankings, rows_of

from rlhf.data.contracts import DEMONSTRATION, TABLES, row_id
from rlhf.data.errors import DataError
from rlhf.settings import Prepare
from tasks.prepare import prepare


def raw_tables(**tables: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [dict.fromkeys(contract.schema.names) | {"source": "s"} | row for row in tables.get(name, [])]
        for name, contract in TABLES.items()
    }


def test_prepare_normalises_and_fills() -> None:
    tables = prepare(
        raw_tables(
            demonstrations=[{"prompt": " q\r\n1 ", "completion": "a\n", "split": "test"}],
            comparisons=[{"prompt": "q2", "completions": ["x", "  y "], "ranking": [1, 2]}],
            corpus=[{"text": " t "}, {"text": "t"}, {"text": ""}, {"text": "q\n1 a"}],
        ),
        Prepare(),
        seed=1,
    )
    assert tables["demonstrations"][0]["prompt"] == "q\n1"
    assert tables["demonstrations"][0]["completion"] == " a"
    assert tables["comparisons"][0]["completions"] == [" x", " y"]
    assert [(row["prompt"], row["split"]) for row in tables["prompts"]] == [
        ("q\n1", "test"),
        ("q2", tables["comparisons"][0]["split"]),
    ]
    assert [row["text"] for row in tables["corpus"]] == ["t"]  # once, not empty, no test prompt
    for name, contract in TABLES.items():
        assert all(row["id"] == row_id(contract, row) for row in tables[name])


def test_right_ids_stay_right_and_wrong_ids_stay() -> None:
    row = {"prompt": "q", "completion": "a"}
    brought = [row | {"id": row_id(DEMONSTRATION, row)}, {"prompt": "r", "completion": "a", "id": "wrong"}]
    done = prepare(raw_tables(demonstrations=brought), Prepare(), seed=1)["demonstrations"]
    assert done[0]["id"] == row_id(DEMONSTRATION, done[0]) != brought[0]["id"]
    assert done[1]["id"] == "wrong"


def test_a_split_given_once_holds_for_the_prompt() -> None:
    tables = prepare(
        raw_tables(
            prompts=[{"prompt": "q", "split": "test"}],
            demonstrations=[{"prompt": "q", "completion": "a"}],
            comparisons=[{"prompt": "q", "completions": ["x", "y"], "ranking": [1, 2], "split": "judge"}],
        ),
        Prepare(),
        seed=1,
    )
    assert tables["demonstrations"][0]["split"] == "test"
    assert tables["comparisons"][0]["split"] == "judge"  # contradicts: for `validate` to find
    assert len(tables["prompts"]) == 1


ANSWER = "The harbour was closed for the winter, and no ship came in until the ice broke."


def test_references_stay_out_of_the_corpus_and_near_duplicates_in_one_split() -> None:
    question = "Tell me in some detail what happened in the harbour of the town in the winter of the year {}?"
    tables = prepare(
        raw_tables(
            demonstrations=[{"prompt": "q", "completion": ANSWER, "split": "test"}],
            prompts=[{"prompt": question.format(1801), "split": "test"}, {"prompt": question.format("1802")}],
            corpus=[{"text": f"News: {ANSWER.upper()} So it was."}, {"text": "The harbour was closed."}],
        ),
        Prepare(),
        seed=1,
    )
    assert [row["text"] for row in tables["corpus"]] == ["The harbour was closed."]
    assert [row["split"] for row in tables["prompts"]] == ["test"] * 3


def test_the_figures_say_what_was_dropped_and_why(workspace: Workspace) -> None:
    own(workspace, rows_of(40), rankings(40))
    texts = ["question 1 answer", "kept", "", "kept", ANSWER]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (workspace.path / "own/corpus.jsonl").write_text(lines)
    held = {"prompt": "question 1", "completion": ANSWER, "split": "test", "writer_id": "w"}
    with (workspace.path / "own/demonstrations.jsonl").open("a") as file:
        file.write(json.dumps(held) + "\n")
    prepared(workspace)
    corpus = json.loads(Path("metrics/prepare.json").read_text())["corpus"]
    assert corpus["why"] == {"empty": 1, "held out": 2, "repeated": 1}
    assert (corpus["rows"], corpus["dropped"]) == (1, 4)


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


SYSTEM = {"role": "system", "content": "s"}


def test_conversations_keep_their_white_space() -> None:
    talk = [SYSTEM, user(" def f():\r\n")]
    code = {"prompt": " q ", "messages": talk, "completion": "    return 1\r\n", "source": "d"}
    ranked = {"prompt": "q", "messages": talk, "completions": ["x", "  y\n"], "ranking": [1, 2]}
    right = row_id(DEMONSTRATION, code)
    tables = prepare(
        raw_tables(demonstrations=[code | {"id": right}], comparisons=[ranked]), Prepare(), seed=1
    )
    (row,) = tables["demonstrations"]
    assert row["messages"] == [SYSTEM, user(" def f():\n")]
    assert (row["prompt"], row["completion"]) == ("q", "    return 1\n")
    assert row["id"] == row_id(DEMONSTRATION, row) != right
    assert tables["comparisons"][0]["completions"] == ["x", "  y\n"]
    assert [(row["prompt"], row["messages"]) for row in tables["prompts"]] == [("q", row["messages"])]


@pytest.mark.parametrize(
    ("messages", "what"), [(None, "only one has messages"), ([user("q"), user("q")], "other messages")]
)
def test_a_prompt_text_stands_for_one_conversation(messages: Any, what: str) -> None:
    rows = [{"prompt": "q", "messages": [user("q")], "completion": "a", "source": "d.jsonl"}]
    other = {"prompt": " q", "messages": messages, "completions": ["x", "y"], "source": "c.jsonl"}
    with pytest.raises(DataError, match=f"row 2 of c.jsonl have the same prompt, 'q', but {what}") as refused:
        prepare(raw_tables(demonstrations=rows, comparisons=[{"prompt": "r"}, other]), Prepare(), seed=1)
    assert str(refused.value).startswith("row 1 of d.jsonl and ")
    assert "\n" not in str(refused.value)


def test_held_out_conversations_stay_out_of_the_corpus_without_their_system_turn_too() -> None:
    prompts = [
        {"prompt": "System: s\n\nUser: post one", "messages": [SYSTEM, user("post one\n")], "split": "test"},
        {"prompt": "own words", "messages": [user("a?"), user("b?")], "split": "test"},
        {"prompt": "System: s\n\nUser: kept", "messages": [SYSTEM, user("kept")], "split": "train"},
    ]
    texts = ["post one and more", "System: s\n\nUser: post one", "own words", "User: a?\n\nUser: b?!", "kept"]
    tables = prepare(
        raw_tables(prompts=prompts, corpus=[{"text": text} for text in texts]), Prepare(), seed=1
    )
    assert [row["text"] for row in tables["corpus"]] == ["kept"]
