"""The values of columns as JSON, a whole column at a time, as `contracts.id_of` hashes them.

What is written is equal to `json.dumps(value, ensure_ascii=False)`, whose spaces and escapes every id depends
on. Most texts need no escape, so that Arrow only puts quotes around them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.byte_kinds import Bytes, Mask, holding, raw
from rlhf.data.columns import values_of

_BYTES = pa.binary()
# The backslash first, since the others bring one.
_ESCAPES = (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"))


def as_json(column: pa.Array) -> pa.Array:
    """The JSON of each value, null included; structs are lists of their fields.

    Args:
        column: of texts, whole numbers, booleans, or lists and structs of these, [rows].

    Returns:
        UTF-8, [rows].
    """
    kind = column.type
    if pa.types.is_null(kind):
        told = pa.nulls(len(column), _BYTES)
    elif pa.types.is_string(kind):
        told = _quoted(column)
    elif pa.types.is_list(kind):
        told = _lists(column)
    elif pa.types.is_struct(kind):
        told = pc.if_else(column.is_valid(), row_json(column.flatten()), pa.scalar(None, _BYTES))
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        told = column.cast(pa.string()).cast(_BYTES)
    else:
        told = pa.array([json.dumps(value).encode() for value in column.to_pylist()], _BYTES)
    return pc.fill_null(told, b"null") if told.null_count else told


def row_json(columns: Sequence[pa.Array], behind: pa.Array | None = None) -> pa.Array:
    """The JSON list of each row's values.

    Args:
        columns: of equal length, [rows] each.
        behind: one more value for the rows in which it is not null.
    """
    parts: list[pa.Array | pa.Scalar] = []
    for column in columns:
        parts += [_said(b", " if parts else b"["), as_json(column)]
    if behind is not None and behind.null_count < len(behind):
        parts.append(pc.if_else(behind.is_valid(), _joined([_said(b", "), as_json(behind)]), _said(b"")))
    return _joined([*parts, _said(b"]")])


def _quoted(texts: pa.Array) -> pa.Array:
    _, content = raw(texts)
    told = texts
    for character, escape in _ESCAPES:
        if (content == ord(character)).any():
            told = pc.replace_substring(told, pattern=character, replacement=escape)
    told = _joined([_said(b'"'), told.cast(_BYTES), _said(b'"')])
    if _rare(content).any():
        mask = pa.array(holding(texts, _rare))
        values = [json.dumps(text, ensure_ascii=False).encode() for text in values_of(texts.filter(mask))]
        return pc.replace_with_mask(told, mask, pa.array(values, _BYTES))
    return told


def _rare(content: Bytes) -> Mask:
    """Control characters that are no line break and no tab."""
    return (content < 32) & (content != 9) & (content != 10) & (content != 13)


def _lists(lists: pa.Array) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    inside = pa.ListArray.from_arrays(ends, as_json(lists.flatten()))
    told = _joined([_said(b"["), pc.binary_join(inside, b", "), _said(b"]")])
    return pc.if_else(lists.is_valid(), told, pa.scalar(None, _BYTES)) if lists.null_count else told


def _said(text: bytes) -> pa.Scalar:
    return pa.scalar(text, _BYTES)


def _joined(parts: Sequence[pa.Array | pa.Scalar]) -> pa.Array:
    return pc.binary_join_element_wise(*parts, _said(b""))
