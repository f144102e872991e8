"""What users bring: rows of a contract from JSONL, JSON, CSV and Parquet, each value kept or refused.

Nothing is cut or guessed: a fraction is no whole number, a text is no list, a number written as text is no
number. Rankings alone may be any numbers, because means and competition ranks (1, 2, 2, 4) say the same thing
as the ranks 1, 2, 2, 3 of the contract: the smallest number is best, and only equal numbers tie.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf.data.contracts import Contract, exact
from rlhf.data.errors import DataError
from rlhf.data.rankings import _make_dense

# Beside JSONDecodeError, which is a ValueError and is caught first: endless numbers and nesting.
_TOO_MUCH = (ValueError, RecursionError)
# What to write in place of a value that a column cannot hold.
_MEND = {
    "string": "write a text",
    "int64": "write a whole number or leave it out",
    "double": "write a number or leave it out",
    "list<item: string>": 'write a list of texts, such as ["a", "b"]',
    "list<item: int64>": "write a list of whole numbers, such as [1, 2]",
    "list<item: list<item: double>>": "write a list of lists of numbers, such as [[0.5, 1]]",
}


def read_rows(path: Path | str, contract: Contract, notes: list[str] | None = None) -> list[dict[str, Any]]:
    """Rows of a user's file: `.jsonl`, `.json` (a list), `.csv` or `.parquet`.

    In CSV, list columns hold JSON (`["a", "b"]`) and empty cells are null. Rankings become dense ranks.

    Args:
        path: the file.
        contract: what its rows are.
        notes: gets a line for a person to see where rankings were not dense ranks.

    Raises:
        DataError: missing, empty or unreadable file, a broken line, a missing or unknown column, a value
            that its column cannot hold without changing it.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name the file in it")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; it needs one {contract.name} per row")
    readers = {".jsonl": read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise DataError(f"{path}: unknown file type {path.suffix!r}; use {', '.join(readers)}")
    known = set(contract.schema.names)
    rows = []
    for number, row in enumerate(readers[path.suffix](path), start=1):
        if not isinstance(row, dict):
            raise DataError(
                f"{path}: row {number}: expected an object with columns, got {type(row).__name__}"
            )
        for column in contract.required:
            if column not in row:
                raise DataError(
                    f"{path}: row {number}: column {column!r} is missing; a {contract.name} needs "
                    f"{', '.join(contract.required)}"
                )
        for column in row:
            if column not in known:
                raise DataError(
                    f"{path}: row {number}: unknown column {column!r}; a {contract.name} may have "
                    f"{', '.join(contract.schema.names)}"
                )
        if path.suffix == ".csv":
            row = _cells(path, number, row, contract.schema)
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: no rows; it needs one {contract.name} per row")
    if "ranking" in known and (note := _make_dense(path, rows)) and notes is not None:
        notes.append(note)
    for number, row in enumerate(rows, start=1):
        for column, value in row.items():
            kind = contract.schema.field(column).type
            try:
                row[column] = exact(value, kind)
            except ValueError:
                raise DataError(
                    f"{path}: row {number}: column {column!r}: {ascii(value)[:60]} is no {kind}; "
                    f"{_MEND.get(str(kind), 'mend it or leave it out')}"
                ) from None
    return rows


def read_text(path: Path) -> str:
    """A whole text file as UTF-8; a `DataError` names the line of the first bad byte."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}: row {line}: not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from None


def read_jsonl(path: Path) -> Iterator[Any]:
    """The values of a file with one JSON value a line; a `DataError` names the line that is none."""
    # not splitlines(): JSON strings may hold U+2028 and other characters that it takes for line ends
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}: row {number}: not valid JSON ({error.msg} at column {error.colno}); "
                "is the line cut off?"
            ) from None
        except _TOO_MUCH as error:
            raise DataError(f"{path}: row {number}: cannot be read ({_why(error)})") from None


def _why(error: Exception) -> str:
    """What JSON may hold and Python does not read, in words."""
    return "lists within lists too deep" if isinstance(error, RecursionError) else "a number is too long"


def _read_json(path: Path) -> Iterator[Any]:
    try:
        rows = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: row {error.lineno}: not valid JSON ({error.msg}); is the file cut off?"
        ) from None
    except _TOO_MUCH as error:
        raise DataError(f"{path}: cannot be read ({_why(error)})") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a JSON list of rows, got {type(rows).__name__}")
    yield from rows


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(
        io.StringIO(read_text(path), newline=""), restkey="(cells beyond the header)", strict=True
    )
    try:
        twice = [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1]
        if twice:
            raise DataError(f"{path}: the header names {twice[0]!r} twice; keep one of the columns")
        for number, row in enumerate(reader, start=1):
            if None in row.values():
                raise DataError(
                    f"{path}: row {number}: fewer cells than the header has; is the line cut off?"
                )
            yield row
    except csv.Error as error:
        raise DataError(
            f"{path}: line {reader.line_num}: not valid CSV ({error}); is the file cut off?"
        ) from None


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file, or cut off: {error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: a text is not UTF-8 ({error.reason}); write the texts as UTF-8") from None


def _cells(path: Path, number: int, row: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """CSV cells as the contract's types."""
    typed: dict[str, Any] = {}
    for column, cell in row.items():
        kind = schema.field(column).type
        try:
            if cell is None or cell == "":
                typed[column] = None
            elif pa.types.is_string(kind):
                typed[column] = cell
            else:
                typed[column] = json.loads(cell)
        except json.JSONDecodeError:
            raise DataError(
                f"{path}: row {number}: column {column!r}: {cell[:40]!r} is not a {kind} written as JSON"
            ) from None
        except _TOO_MUCH as error:
            raise DataError(f"{path}: row {number}: column {column!r}: {_why(error)}") from None
    return typed
