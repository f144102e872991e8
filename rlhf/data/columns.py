"""Columns of Arrow from Python's values and back: exactly, and a batch at a time.

pyarrow alone takes values that are not of a column's type (`contracts.exact` says which), and its way back to
Python makes a scalar object of every cell. Both functions here look at a whole batch first and take the slow
way only where it is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from rlhf.data.contracts import exact


def column_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Values as a column of this type, each as `contracts.exact` has it.

    Args:
        values: one for each row.
        kind: the column's type.

    Raises:
        ValueError: the column cannot hold one of them.
    """
    if _are_plainly(values, kind):
        try:
            return pa.array(values, kind)
        except (pa.ArrowException, UnicodeError, OverflowError):
            pass  # `exact` says which value it is
    return pa.array([exact(value, kind) for value in values], kind)


def _are_plainly(values: Sequence[Any], kind: pa.DataType) -> bool:
    """Whether all values have the very type that the column holds, so that pyarrow changes none of them."""
    types = set(map(type, values)) - {type(None)}
    if not types:
        return True
    if pa.types.is_string(kind):
        return types == {str}
    if pa.types.is_boolean(kind):
        return types == {bool}
    if pa.types.is_integer(kind):
        return types == {int}
    if pa.types.is_floating(kind):
        return types == {float} and all(map(math.isfinite, filter(None, values)))
    filled = [value for value in values if value is not None]
    if pa.types.is_list(kind):
        return types == {list} and _are_plainly(list(chain.from_iterable(filled)), kind.value_type)
    if pa.types.is_struct(kind):
        names = {field.name for field in kind}
        return (
            types == {dict}
            and all(value.keys() == names for value in filled)
            and all(_are_plainly([value[field.name] for value in filled], field.type) for field in kind)
        )
    return False


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch as dicts, equal to `batch.to_pylist()`."""
    names = batch.schema.names
    columns = [values_of(column) for column in batch.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def values_of(column: pa.Array) -> list[Any]:
    """The values of a column, equal to `column.to_pylist()`."""
    if column.null_count == len(column):
        return [None] * len(column)
    kind = column.type
    if pa.types.is_string(kind):
        texts: list[Any] = column.to_numpy(zero_copy_only=False).tolist()
        return texts
    if pa.types.is_list(kind):
        inside, start = values_of(column.flatten()), 0
        lists: list[Any] = []
        for length in column.value_lengths().to_pylist():
            if length is None:
                lists.append(None)
            else:
                lists.append(inside[start : start + length])
                start += length
        return lists
    if pa.types.is_struct(kind) and not column.null_count:
        names = [field.name for field in kind]
        fields = [values_of(child) for child in column.flatten()]
        return [dict(zip(names, row, strict=True)) for row in zip(*fields, strict=True)]
    values: list[Any] = column.to_pylist()
    return values
