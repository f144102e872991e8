"""The records of a file, whatever its type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf.data.errors import DataError
from rlhf.data.formats.csv_files import read_csv
from rlhf.data.formats.json_files import read_json_list, read_jsonl
from rlhf.data.layouts.layout import Record


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file, or cut off: {error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: a text is not UTF-8 ({error.reason}); write the texts as UTF-8") from None


_READERS: dict[str, Callable[[Path], Any]] = {
    ".jsonl": read_jsonl,
    ".json": read_json_list,
    ".csv": read_csv,
    ".parquet": _read_parquet,
}
SUFFIXES = tuple(_READERS)


def format_of(path: Path) -> tuple[str, str]:
    """The name of a file without its type, and the type: `("comparisons", ".jsonl")`."""
    return path.stem, path.suffix.lower()


def records(path: Path) -> Iterator[Record]:
    """The records of a file.

    Raises:
        DataError: it is empty or cannot be read; the line names the file, and the row where it is one row's.
    """
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    for number, columns in enumerate(_READERS[format_of(path)[1]](path), start=1):
        where = f"{path}: row {number}"
        if not isinstance(columns, dict):
            raise DataError(f"{where}: expected an object with columns, got {type(columns).__name__}")
        yield Record(where, columns)
