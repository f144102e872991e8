"""The records of a file, whatever its type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.formats.arrow_files import read_arrow, read_parquet
from rlhf.data.formats.compressed import COMPRESSIONS
from rlhf.data.formats.csv_files import read_csv
from rlhf.data.formats.json_blocks import Block
from rlhf.data.formats.json_documents import read_document
from rlhf.data.formats.json_files import json_lines, refusing, values_of_lines
from rlhf.data.formats.text_files import Fault, decoded_lines
from rlhf.data.layouts.layout import Record

Say = Callable[[str], None]
_TEXTS = (".csv", ".tsv", ".txt")  # types in which every cell is a text
JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (*JSON_LINES, ".json", *_TEXTS, ".parquet", ".arrow", ".feather")


def format_of(path: Path) -> tuple[str, str]:
    """The name of a file without its type, and the type unpacked: `a.csv.gz` is `("a", ".csv")`."""
    name = Path(path.stem) if path.suffix.lower() in COMPRESSIONS else path
    return name.stem, name.suffix.lower()


def only_texts(path: Path) -> bool:
    """Whether every value of the file's records is a text, whatever its column holds."""
    return format_of(path)[1] in _TEXTS


def records(path: Path, say: Say = lambda line: None, fault: Fault | None = None) -> Iterator[Record]:
    """The records of a file.

    Args:
        path: the file.
        say: gets what a person should see of how it was read.
        fault: gets each row that cannot be read; None ends the reading at the first.

    Raises:
        DataError: it is empty or cannot be read; the line names the file, and the row where it is one row's.
    """
    fault = fault or refusing(path)
    yield from _objects(path, _rows(path, say, fault), fault)


def block_records(path: Path, block: Block, fault: Fault | None = None) -> Iterator[Record]:
    """The records of a block of a file of JSON lines; see `records`."""
    fault = fault or refusing(path)
    lines = decoded_lines(BytesIO(block.content), block.first, path, fault)
    yield from _objects(path, values_of_lines(lines, fault), fault)


def _objects(path: Path, rows: Iterable[tuple[int, Any]], fault: Fault) -> Iterator[Record]:
    for number, columns in rows:
        if type(columns) is dict:
            yield Record(f"{path}: row {number}", columns)
        else:
            fault(f"row {number}", f"expected an object with columns, got {_named(columns)}", columns)


def _rows(path: Path, say: Say, fault: Fault) -> Iterator[tuple[int, Any]]:
    kind = format_of(path)[1]
    if kind in JSON_LINES:
        return json_lines(path, fault)
    if kind == ".json":
        return read_document(path, fault, say)
    if kind in _TEXTS:
        return read_csv(path, kind, fault, say)
    if kind == ".parquet":
        return read_parquet(path)
    if kind in (".arrow", ".feather"):
        return read_arrow(path)
    raise DataError(f"{path}: unknown file type {''.join(path.suffixes[-2:])!r}; use {', '.join(SUFFIXES)}")


def _named(value: Any) -> str:
    name = type(value).__name__
    return f"{name}; is the whole file a list? let its name end in .json" if isinstance(value, list) else name
