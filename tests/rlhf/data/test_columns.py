"""Columns: exactly the values that `exact` lets in, and back as pyarrow reads them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from rlhf.data.columns import column_of, rows_of, values_of
from rlhf.data.contracts import COMPARISON, exact

TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
HI = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.string(), ["a", None, "ü"]),
        (pa.bool_(), [True, None]),
        (pa.int64(), [1, None, 2.0, -(2**63)]),
        (pa.float64(), [1, None, 0.5, 2**53]),
        (pa.list_(pa.string()), [["a", None], [], None, ("b",)]),
        (pa.list_(pa.int64()), [[1, 2.0], None, [None]]),
        (TURNS, [[HI], None, [], [HI | {"name": None}, {"content": "x"}]]),
        (pa.int64(), [None, None]),
    ],
)
def test_columns_hold_what_exact_says_and_come_back(kind: pa.DataType, values: list[Any]) -> None:
    column = column_of(values, kind)
    assert column.type == kind
    assert values_of(column) == column.to_pylist() == [exact(value, kind) for value in values]
    assert values_of(column.slice(1)) == column.slice(1).to_pylist()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.string(), 1),
        (pa.string(), "\ud800"),
        (pa.bool_(), 1),
        (pa.int64(), True),
        (pa.int64(), 2.5),
        (pa.int64(), 2**63),
        (pa.float64(), float("nan")),
        (pa.float64(), float("inf")),
        (pa.float64(), 2**53 + 1),
        (pa.list_(pa.string()), "sft"),
        (pa.list_(pa.string()), [1]),
        (TURNS, [HI | {"weight": 1}]),
        (TURNS, [{"role": "user", "content": 1}]),
    ],
)
def test_columns_refuse_what_exact_refuses(kind: pa.DataType, value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        exact(value, kind)
    with pytest.raises(ValueError, match=r"."):
        column_of([None, value], kind)


def test_rows_come_back_as_pyarrow_reads_them() -> None:
    rows = [
        dict.fromkeys(COMPARISON.schema.names)
        | {"prompt": f"q{i}", "completions": ["a", "b"], "ranking": [1, 2], "margin": i / 2}
        | ({"messages": [HI]} if i % 2 else {})
        for i in range(7)
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema=COMPARISON.schema)
    assert rows_of(batch) == batch.to_pylist() == rows
    assert rows_of(batch.slice(3, 2)) == rows[3:5]
    assert rows_of(batch.slice(7)) == []
