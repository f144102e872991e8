"""Row types: ids are hashes of the content."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import pytest

from rlhf.data.contracts import COMPARISON, DEMONSTRATION, PROMPT, exact, row_id, with_ids

ROW = {"prompt": "héllo", "completion": " 🙂\nworld\u2028.", "writer_id": None}
RANKED: dict[str, Any] = {"prompt": "p", "completions": [" a", " b"], "ranking": [1, 1], "labeler_id": "ann"}


def test_ids_are_hashes_of_the_content_alone() -> None:
    # sha256 of '["héllo", "x", null]' in UTF-8
    assert row_id(DEMONSTRATION, {"prompt": "héllo", "completion": "x"}) == "886cda0f4b633dd3"
    assert row_id(DEMONSTRATION, {**ROW, "split": "test", "source": "a"}) == row_id(DEMONSTRATION, ROW)
    assert row_id(COMPARISON, {**RANKED, "ranking": [1, 2]}) != row_id(COMPARISON, RANKED)


def test_ids_are_those_of_json_for_every_character() -> None:
    text = "".join(chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000)
    content = [text, [None, "", 'a"\\/'], [1, 2], None]
    digest = hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
    row = dict(zip(COMPARISON.content, content, strict=True))
    assert row_id(COMPARISON, row) == digest[:16]
    with pytest.raises(UnicodeEncodeError):
        row_id(PROMPT, {"prompt": "\ud800"})


def test_with_ids_keeps_what_is_given() -> None:
    rows = with_ids(PROMPT, [{"prompt": "a", "id": "7", "source": "s"}, {"prompt": "b"}], "t")
    assert [(row["id"], row["source"]) for row in rows] == [
        ("7", "s"),
        (row_id(PROMPT, {"prompt": "b"}), "t"),
    ]


def test_messages_count_in_an_id_where_there_are_any() -> None:
    talk = [{"role": "user", "content": "a"}]
    assert row_id(PROMPT, {"prompt": "a", "messages": None}) == row_id(PROMPT, {"prompt": "a"})
    # sha256 of '["a", [["user", "a"]]]'
    assert row_id(PROMPT, {"prompt": "a", "messages": talk}) == "503fd77281a62377"
    turned = [dict(reversed(turn.items())) for turn in talk]
    assert row_id(PROMPT, {"prompt": "a", "messages": turned}) == "503fd77281a62377"
    assert row_id(PROMPT, {"prompt": "a", "messages": talk + talk}) != "503fd77281a62377"


def test_messages_keep_their_values_or_are_refused() -> None:
    kind = PROMPT.schema.field("messages").type
    talk = [{"role": "user", "content": " a\r\n"}, {"role": "assistant", "content": ""}]
    assert exact(talk, kind) == talk
    assert exact(None, kind) is None
    assert exact([{"content": "a", "role": "user", "tool_calls": None}], kind) == [
        {"role": "user", "content": "a"}
    ]
    for other in ("a", [["user", "a"]], [{"role": "user", "content": 5}], [{"role": "user", "name": "ann"}]):
        with pytest.raises(ValueError, match="is no"):
            exact(other, kind)
