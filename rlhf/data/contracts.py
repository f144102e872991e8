"""The row types that travel between stages: their schemas, ids, reading and writing.

A table is Parquet with one schema per contract; every row carries `source` and an `id`, the hash of its
content columns. `read_table` takes only what a stage wrote; what users bring is read by `rlhf.data.readers`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
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


def prompt_key(prompt: str) -> str:
    """What all spellings of a prompt have in common: white space and the letters' case do not count.

    Splits go by it, or a held-out prompt would be trained on under another spelling.
    """
    return " ".join(prompt.split()).casefold()


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


def exact(value: Any, kind: pa.DataType) -> Any:
    """A value as a column of this type holds it, where that is the same value: 2.0 is the whole number 2.

    pyarrow would take more: it cuts 2.5 to 2, and splits the text "sft" into three letters where a column
    wants a list.

    Raises:
        ValueError: the column cannot hold this value.
    """
    if value is None:
        return None
    if pa.types.is_list(kind):
        if isinstance(value, (list, tuple)):
            return [exact(item, kind.value_type) for item in value]
    elif pa.types.is_string(kind):
        if isinstance(value, str):
            value.encode()  # JSON can spell half of a surrogate pair, text cannot hold it
            return value
    elif isinstance(value, Real) and not isinstance(value, bool):
        number: Any = value  # mypy knows no arithmetic of Real, which NumPy's numbers are too
        if abs(number) < float("inf"):  # NaN is not
            try:
                typed = int(number) if pa.types.is_integer(kind) else float(number)
            except OverflowError:
                raise ValueError(f"{ascii(value)[:60]} is no {kind}") from None
            if typed == number and (isinstance(typed, float) or -(2**63) <= typed < 2**63):
                return typed
    raise ValueError(f"{value!r} is no {kind}")


def write_table(path: Path | str, contract: Contract, rows: list[dict[str, Any]]) -> None:
    """Write rows as Parquet: beside, then renamed, so that a killed writer leaves nothing half-written."""
    columns: dict[str, list[Any]] = {name: [] for name in contract.schema.names}
    for number, row in enumerate(rows, start=1):
        for field in contract.schema:
            value = row.get(field.name)
            try:
                columns[field.name].append(exact(value, field.type))
            except ValueError:
                raise DataError(
                    f"{path}: {contract.name} {number} has a value of the wrong type: "
                    f"{field.name} {ascii(value)[:60]} is no {field.type}"
                ) from None
    table = pa.Table.from_pydict(columns, schema=contract.schema)
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
    """Write JSON with sorted keys and a final newline, beside then renamed.

    Raises:
        DataError: a number is NaN or infinite: JSON has none of these, and a figure that does not exist is
            null.
    """
    with written_beside(path) as beside:
        try:
            text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        except ValueError:
            raise DataError(f"{path}: {_no_number(value) or 'a figure'} is NaN or infinite") from None
        beside.write_text(text + "\n")


def _no_number(value: Any, place: str = "") -> str | None:
    """Where the first NaN or infinity stands: `policies.ppo.kl`."""
    if isinstance(value, float) and not math.isfinite(value):
        return place
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    places = (_no_number(inner, f"{place}.{key}".lstrip(".")) for key, inner in inside)
    return next(filter(None, places), None)


def read_json(path: Path | str) -> Any:
    """Read JSON that a stage wrote.

    Raises:
        DataError: no such file.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run the stage that writes it (dvc repro)") from None
