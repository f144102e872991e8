"""Parquet and Arrow files (Feather, datasets), a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf.data.errors import UNFIT, DataError
from rlhf.data.formats.compressed import seekable
from rlhf.data.shown import shown

_ROWS = 1024  # a batch
_BYTES = 64 << 20  # a batch of long rows is shorter, so that a row of 50 MB takes no gigabytes
_INDEX = "__index_level_"  # how pandas calls the row numbers that it writes along


def read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file and their numbers, from 1.

    Raises:
        DataError: the file is no Parquet or cut off, or texts in it are bytes or not UTF-8.
    """
    with seekable(path) as file:
        try:
            parquet = pq.ParquetFile(file)
            groups = [parquet.metadata.row_group(n) for n in range(parquet.num_row_groups)]
            longest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=1)
            rows = max(1, min(_ROWS, _BYTES // max(1, longest)))
            names = _names(path, parquet.schema_arrow)
            yield from _rows(path, parquet.iter_batches(batch_size=rows, columns=names))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: not a Parquet file, or cut off: {_said(error)}") from None


def read_arrow(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of an Arrow file or stream, which Feather and `save_to_disk` write too.

    Raises:
        DataError: the file is neither or cut off, or texts in it are bytes or not UTF-8.
    """
    with seekable(path) as file:
        try:
            source = pa.memory_map(str(file)) if isinstance(file, Path) else pa.PythonFile(file, "r")
            with source:
                magic = source.read(6)
                source.seek(0)
                if magic == b"ARROW1":
                    reader = pa.ipc.open_file(source)
                    names = _names(path, reader.schema)
                    batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
                else:
                    reader = pa.ipc.open_stream(source)
                    names = _names(path, reader.schema)
                    batches = iter(reader)
                yield from _rows(path, (small for batch in batches for small in _cut(batch.select(names))))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: not an Arrow file or stream, or cut off: {_said(error)}") from None


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    size = max(1, min(_ROWS, _BYTES // max(1, batch.nbytes // max(1, len(batch)))))
    for start in range(0, len(batch), size):
        yield batch.slice(start, size)


def _names(path: Path, schema: pa.Schema) -> list[str]:
    """The columns but pandas' row numbers; a column that holds bytes or stands twice is refused."""
    names = [name for name in schema.names if not name.startswith(_INDEX)]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: the column {name!r} stands twice; keep one of the two")
        if _holds_bytes(schema.field(name).type):
            raise DataError(
                f"{path}: column {name!r} holds bytes ({schema.field(name).type}) and not text; decode them "
                "before they are written, or leave the column out"
            )
    return names


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    if pa.types.is_nested(kind):
        return any(_holds_bytes(kind.field(n).type) for n in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _rows(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 1
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except UNFIT as error:
            row, column = _unfit(batch)
            raise DataError(f"{path}: row {number + row}: {_why(error, column, batch)}") from None
        yield from enumerate(rows, start=number)
        number += len(rows)


def _unfit(batch: pa.RecordBatch) -> tuple[int, str]:
    """The first row, from 0, with a value that Python cannot hold, and the value's column."""
    for row in range(len(batch)):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                column[row].as_py()
            except UNFIT:
                return row, name
    return 0, ""


def _why(error: Exception, column: str, batch: pa.RecordBatch) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"a text is not UTF-8 ({error.reason}); write the texts as UTF-8"
    kind = f" ({shown(str(batch.schema.field(column).type))})" if column else ""
    return f"column {shown(column)}{kind} holds what is no value ({shown(str(error))}); leave the column out"


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
