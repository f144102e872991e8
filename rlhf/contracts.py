"""The row types that travel between stages: their schemas, ids, reading and writing.

A table is Parquet with one schema per contract; every row carries `source` and an `id`, the hash of its
content columns. `read_rows` takes what users bring (JSONL, CSV, Parquet); `read_table` takes only what a
stage wrote.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


class DataError(ValueError):
    """Input that cannot be used: one line that names file, row, what is wrong and how to mend it."""


_TEXT, _TEXTS, _INTS = pa.string(), pa.list_(pa.string()), pa.list_(pa.int64())
_META = [("source", _TEXT), ("id", _TEXT)]


@dataclass(frozen=True)
class Contract:
    """One row type.

    Attributes:
        name: singular name, used in messages.
        schema: columns and Arrow types, in order.
        content: the columns whose values make the id.
        required: columns that a user's file must bring.
    """

    name: str
    schema: pa.Schema
    content: tuple[str, ...]
    required: tuple[str, ...]


CORPUS = Contract("text", pa.schema([("text", _TEXT), *_META]), ("text",), ("text",))
PROMPT = Contract(
    "prompt",
    pa.schema([("prompt", _TEXT), ("topic", _TEXT), ("split", _TEXT), *_META]),
    ("prompt",),
    ("prompt",),
)
DEMONSTRATION = Contract(
    "demonstration",
    pa.schema([("prompt", _TEXT), ("completion", _TEXT), ("writer_id", _TEXT), ("split", _TEXT), *_META]),
    ("prompt", "completion", "writer_id"),
    ("prompt", "completion"),
)
COMPARISON = Contract(
    "comparison",
    pa.schema(
        [
            ("prompt", _TEXT),
            ("completions", _TEXTS),
            ("ranking", _INTS),
            ("labeler_id", _TEXT),
            ("labeler_group", _TEXT),
            ("strength", pa.int64()),
            ("policies", _TEXTS),
            ("shown_order", _INTS),
            ("seconds", pa.float64()),
            ("guideline_version", _TEXT),
            ("split", _TEXT),
            *_META,
        ]
    ),
    ("prompt", "completions", "ranking", "labeler_id"),
    ("prompt", "completions", "ranking"),
)
JUDGMENT = Contract(
    "judgment",
    pa.schema(
        [
            ("prompt", _TEXT),
            ("reference", _TEXT),
            ("output", _TEXT),
            ("policy", _TEXT),
            ("preferred", _TEXT),
            ("judge_id", _TEXT),
            ("judge_kind", _TEXT),
            ("shown_order", _INTS),
            ("split", _TEXT),
            *_META,
        ]
    ),
    ("prompt", "reference", "output", "policy", "judge_id"),
    ("prompt", "reference", "output", "policy", "preferred"),
)
GOLD = Contract(
    "gold row",
    pa.schema([("prompt", _TEXT), ("facts", _TEXT), *_META]),
    ("prompt", "facts"),
    ("prompt", "facts"),
)  # facts: JSON of fact type -> value; only judges and simulated labelers read it
SPLITS = ("train", "validation", "judge", "test")
TABLES = {"corpus": CORPUS, "demonstrations": DEMONSTRATION, "prompts": PROMPT, "comparisons": COMPARISON}


def row_id(contract: Contract, row: dict[str, Any]) -> str:
    """The stable id of a row: 16 hex digits of the SHA-256 over its content columns."""
    content = [row.get(column) for column in contract.content]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]


def with_ids(contract: Contract, rows: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """Rows with `source` and `id` filled in where they are missing; given ids are kept, and checked later."""
    return [
        {**row, "source": row.get("source") or source, "id": row.get("id") or row_id(contract, row)}
        for row in rows
    ]


def write_table(path: Path | str, contract: Contract, rows: list[dict[str, Any]]) -> None:
    """Write rows as Parquet: beside, then renamed, so that a killed writer leaves nothing half-written."""
    full = [{name: row.get(name) for name in contract.schema.names} for row in rows]
    try:
        table = pa.Table.from_pylist(full, schema=contract.schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{path}: a {contract.name} has a value of the wrong type: {error}") from None
    with written_beside(path) as beside:
        pq.write_table(table, beside, compression="zstd")


def read_table(path: Path | str, contract: Contract) -> list[dict[str, Any]]:
    """Rows of a table that `write_table` wrote.

    Raises:
        DataError: no such file, not Parquet, or another schema.
    """
    if not Path(path).exists():
        raise DataError(f"{path}: no such file; run the stage that writes it (dvc repro)")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file: {error}") from None
    if table.schema.names != contract.schema.names:
        odd = set(table.schema.names) ^ set(contract.schema.names)
        raise DataError(f"{path}: not a table of {contract.name}s: columns differ in {sorted(odd)}")
    return table.to_pylist()


def read_rows(path: Path | str, contract: Contract) -> list[dict[str, Any]]:
    """Rows of a user's file: `.jsonl`, `.json` (a list), `.csv` or `.parquet`.

    In CSV, list columns hold JSON (`["a", "b"]`) and empty cells are null.

    Raises:
        DataError: missing, empty or unreadable file, a broken line, a missing or unknown column.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file")
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
    for field in contract.schema:
        values = [row.get(field.name) for row in rows]
        if not _fits(values, field.type):
            number = next(i for i, value in enumerate(values, start=1) if not _fits([value], field.type))
            value = ascii(values[number - 1])[:60]
            raise DataError(f"{path}: row {number}: column {field.name!r}: {value} is no {field.type}")
    return rows


def _fits(values: list[Any], kind: pa.DataType) -> bool:
    try:
        pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        return False  # UnicodeEncodeError: JSON can spell half of a surrogate pair, text cannot hold it
    return True


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


def _read_json(path: Path) -> Iterator[Any]:
    try:
        rows = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: row {error.lineno}: not valid JSON ({error.msg}); is the file cut off?"
        ) from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a JSON list of rows, got {type(rows).__name__}")
    yield from rows


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(
        io.StringIO(read_text(path), newline=""), restkey="(cells beyond the header)", strict=True
    )
    try:
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
            elif kind == _TEXT:
                typed[column] = cell
            else:
                typed[column] = json.loads(cell)
        except json.JSONDecodeError:
            raise DataError(
                f"{path}: row {number}: column {column!r}: {cell[:40]!r} is not a {kind} written as JSON"
            ) from None
    return typed


@contextmanager
def written_beside(path: Path | str) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or folder to; renamed into place when all went well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        if path.is_dir():
            _remove(path)
        os.replace(beside, path)
    finally:
        _remove(beside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON with sorted keys and a final newline, beside then renamed."""
    with written_beside(path) as beside:
        beside.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read JSON that a stage wrote.

    Raises:
        DataError: no such file.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run the stage that writes it (dvc repro)") from None
