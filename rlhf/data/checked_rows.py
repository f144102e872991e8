"""The rows of items against their contracts: each value is kept as it is, or refused with how to mend it.

Nothing is cut or guessed: a fraction is no whole number, a text is no list, a number written as text is no
number. This runs for every value of every row, so what is common is looked at first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import isfinite
from typing import Any

import pyarrow as pa

from rlhf.data.contracts import COMPARISON, JUDGMENT, SPLITS, TABLES, exact
from rlhf.data.errors import DataError
from rlhf.data.formats.split_names import KNOWN, split_named

# What to write in place of a value that a column cannot hold.
_MEND = {
    "string": "write a text",
    "bool": "write true or false",
    "int64": "write a whole number or leave it out",
    "double": "write a number or leave it out",
    "list<item: string>": 'write a list of texts, such as ["a", "b"]',
    "list<item: int64>": "write a list of whole numbers, such as [1, 2]",
    "list<item: double>": "write a list of numbers, such as [0.5, 1]",
}
_EDIT = pa.schema(
    [*COMPARISON.schema, ("output", pa.string()), ("text", pa.string()), ("policy", pa.string())]
)
SCHEMAS: dict[str, pa.Schema] = {name: contract.schema for name, contract in TABLES.items()}
SCHEMAS |= {"judgments": JUDGMENT.schema, "edits": _EDIT}
_MOST = 2**63 - 1
_WHOLE = 2**53  # whole numbers up to this are floats without loss


def _text(value: Any) -> Any:
    return value if type(value) is str and value.isascii() else exact(value, pa.string())


def _texts(value: Any) -> Any:
    if type(value) is list and all(type(item) is str and item.isascii() for item in value):
        return value
    return exact(value, pa.list_(pa.string()))


def _numbers(value: Any) -> Any:
    if type(value) is list and all(type(item) is int and -_MOST <= item <= _MOST for item in value):
        return value
    return exact(value, pa.list_(pa.int64()))


def _number(value: Any) -> Any:
    if type(value) is float and isfinite(value):
        return value
    if type(value) is int and -_WHOLE <= value <= _WHOLE:
        return float(value)
    return exact(value, pa.float64())


_FAST: dict[pa.DataType, Callable[[Any], Any]] = {
    pa.string(): _text,
    pa.list_(pa.string()): _texts,
    pa.list_(pa.int64()): _numbers,
    pa.float64(): _number,
}


def _check(kind: pa.DataType) -> Callable[[Any], Any]:
    return _FAST.get(kind) or (lambda value: exact(value, kind))


_CHECKS = {table: {field.name: _check(field.type) for field in schema} for table, schema in SCHEMAS.items()}


def checked(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row with each value as its column holds it; the row is changed in place.

    Raises:
        DataError: a column cannot hold its value; the line does not name the row.
    """
    checks = _CHECKS[table]
    for column, value in row.items():
        if value is not None:
            try:
                row[column] = checks[column](value)
            except ValueError:
                raise DataError(_refusal(column, value, SCHEMAS[table].field(column).type)) from None
    return row


def _refusal(column: str, value: Any, kind: pa.DataType) -> str:
    shown = ascii(value)[:60]
    spelled = json.dumps(value, ensure_ascii=False, default=str)
    try:
        spelled.encode()
    except UnicodeEncodeError as error:
        half = spelled[error.start]
        return (
            f"column {column!r}: {shown} holds half of a surrogate pair ({ascii(half)[1:-1]}), which no "
            "text can hold; write the whole character"
        )
    if isinstance(value, str) and value.lstrip().startswith("[") and pa.types.is_list(kind):
        mend = "write it as JSON does, in double quotes, as json.dumps prints it and pandas does not"
        return f"column {column!r}: {shown} is no {kind}; {mend}"
    if isinstance(value, str) and re.fullmatch(r"-?\d+,\d+", value) and str(kind) in ("double", "int64"):
        return f"column {column!r}: {shown} is no {kind}; write a point for the comma of a decimal number"
    return f"column {column!r}: {shown} is no {kind}; {_MEND.get(str(kind), 'mend it or leave it out')}"


def contract_split(said: Any, note: Callable[[str], None]) -> str | None:
    """The split that a row says, by the contracts' name.

    Args:
        said: what stands in the row.
        note: gets a line where it is another word for it.

    Raises:
        DataError: it is no split.
    """
    if said in SPLITS or said is None or said == "":
        return said or None
    split = split_named(said) if isinstance(said, str) else None
    if split is None:
        raise DataError(
            f"column 'split': {ascii(said)[:60]} is no split; write one of {KNOWN}, or leave it out"
        )
    note(f"split {said!r} is read as {split}")
    return split
