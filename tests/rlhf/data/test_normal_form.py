"""The normal form and the ids of batches: as of one row after the other."""

from __future__ import annotations

import sys
from typing import Any

import pyarrow as pa

from rlhf.data.contracts import COMPARISON, DEMONSTRATION, row_id
from rlhf.data.normal_form import answer_behind, ids_of, normal, stripped

TALK = [{"role": "user", "content": " a\r\nb "}]


def batch_of(contract: Any, rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=contract.schema)


def test_texts_are_stripped_as_python_strips_them() -> None:
    every = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    spaces = [f"{c}x\r\n{c}y{c}" for c in every if c.isspace()]
    assert stripped(pa.array(spaces)).to_pylist() == [text.replace("\r\n", "\n").strip() for text in spaces]
    others = pa.array([c for c in every if not c.isspace()])
    assert stripped(others).equals(others)


def test_completions_stand_after_a_space_or_behind_a_conversation_as_they_are() -> None:
    rows = [
        {"prompt": " p\r\n", "completions": ["x ", None, "\r\n y"]},
        {"prompt": "p", "completions": None},
        {"prompt": None, "messages": TALK, "completions": [" x\r\n"]},
        {"prompt": "p", "completions": []},
        {"prompt": "p", "completions": ["z"]},
    ]
    for start in (0, 1, 2):
        done = normal(batch_of(COMPARISON, rows).slice(start)).to_pylist()
        assert [row["completions"] for row in done] == [[" x", None, " y"], None, [" x\n"], [], [" z"]][
            start:
        ]
        assert [row["prompt"] for row in done] == ["p", "p", None, "p", "p"][start:]
        turns = [{"role": "user", "content": " a\nb "}]
        assert [row["messages"] for row in done] == [None, None, turns, None, None][start:]
    answers = [{"prompt": "p", "completion": "a\n"}, {"prompt": "p", "messages": TALK, "completion": "a\n"}]
    done = normal(batch_of(DEMONSTRATION, [*answers, {"completion": None}])).to_pylist()
    assert [row["completion"] for row in done] == [" a", "a\n", None]


def test_code_keeps_its_line_breaks_and_indents() -> None:
    """Stripped, the first line would lose its indent and the code would not be valid any more."""
    code = "\n    def f():\n        return 0\n"
    texts = [
        code,
        "\tx = 1",
        "    x = 1\n",
        "  - a\n  - b",
        "  blanks.\n",
        "\nA line.",
        " one space.\n",
        "none. ",
        "  ",
        "\n",
    ]
    kept = [*texts[:4], " blanks.", " A line.", " one space.", " none.", " ", " "]
    batch = batch_of(DEMONSTRATION, [{"prompt": "p", "completion": text} for text in texts])
    assert normal(batch).column("completion").to_pylist() == kept
    assert normal(normal(batch)).equals(normal(batch))
    assert [answer_behind(True, text) for text in texts] == kept
    assert answer_behind(False, "none. ") == "none. "


def test_ids_are_those_of_the_rows() -> None:
    rows = [
        {"prompt": 'ü"\\\n\u2028', "completions": ["a", None], "ranking": [1, 2], "labeler_id": "ann"},
        {"prompt": None, "messages": TALK, "completions": [], "ranking": None},
        {"prompt": "p", "messages": [], "completions": ["a"], "ranking": [1]},
    ]
    whole = [dict.fromkeys(COMPARISON.schema.names) | row for row in rows]
    ids = ids_of(COMPARISON, batch_of(COMPARISON, rows))
    assert ids.to_pylist() == [row_id(COMPARISON, row) for row in whole]
