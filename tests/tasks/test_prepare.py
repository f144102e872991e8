"""The stage `prepare`: normal form, ids and prompts."""

from __future__ import annotations

from typing import Any

from rlhf.data.contracts import DEMONSTRATION, TABLES, row_id
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
