"""Columns as JSON: what Python's `json` writes of each value."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.json_texts import as_json, row_json

TEXT = st.text(st.characters(blacklist_categories=["Cs"])) | st.sampled_from(
    ['"\\', "\\n\n\r\t", "\x00\x7f", ""]
)
TURN = pa.struct([("role", pa.string()), ("content", pa.string())])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | TEXT), st.lists(st.none() | st.lists(st.none() | TEXT)), st.integers(0, 3))
def test_texts_and_lists_of_them(texts: list[Any], lists: list[Any], start: int) -> None:
    for values, kind in ((texts, pa.string()), (lists, pa.list_(pa.string()))):
        told = as_json(pa.array(values, kind).slice(start)).to_pylist()
        assert told == [json.dumps(value, ensure_ascii=False).encode() for value in values[start:]]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None, -(2**63)], pa.int64()),
        ([True, None, False], pa.bool_()),
        ([[1, None], None, []], pa.list_(pa.int64())),
        ([0.5, None, 1e300], pa.float64()),
        ([None, None], pa.null()),
    ],
)
def test_numbers(values: list[Any], kind: pa.DataType) -> None:
    assert as_json(pa.array(values, kind)).to_pylist() == [json.dumps(value).encode() for value in values]


def test_messages_stand_behind_the_columns_of_the_rows_that_have_some() -> None:
    turns = pa.array([None, [], [{"role": "user", "content": 'é"'}]], pa.list_(TURN))
    told = row_json([pa.array(["a", None, "c"])], turns)
    assert told.to_pylist() == [b'["a"]', b"[null, []]", '["c", [["user", "é\\""]]]'.encode()]
