"""Row types: ids are hashes of the content."""

from __future__ import annotations

from typing import Any

from rlhf.data.contracts import COMPARISON, DEMONSTRATION, PROMPT, row_id, with_ids

ROW = {"prompt": "héllo", "completion": " 🙂\nworld\u2028.", "writer_id": None}
RANKED: dict[str, Any] = {"prompt": "p", "completions": [" a", " b"], "ranking": [1, 1], "labeler_id": "ann"}


def test_ids_are_hashes_of_the_content_alone() -> None:
    # sha256 of '["héllo", "x", null]' in UTF-8
    assert row_id(DEMONSTRATION, {"prompt": "héllo", "completion": "x"}) == "886cda0f4b633dd3"
    assert row_id(DEMONSTRATION, {**ROW, "split": "test", "source": "a"}) == row_id(DEMONSTRATION, ROW)
    assert row_id(COMPARISON, {**RANKED, "ranking": [1, 2]}) != row_id(COMPARISON, RANKED)


def test_with_ids_keeps_what_is_given() -> None:
    rows = with_ids(PROMPT, [{"prompt": "a", "id": "7", "source": "s"}, {"prompt": "b"}], "t")
    assert [(row["id"], row["source"]) for row in rows] == [
        ("7", "s"),
        (row_id(PROMPT, {"prompt": "b"}), "t"),
    ]
