"""CSV files that people bring: rows by the names in the header, and their cells as the columns' types."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from rlhf.data.errors import DataError
from rlhf.data.formats.json_files import TOO_MUCH, too_much
from rlhf.data.formats.text_files import read_text


def read_csv(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, every cell a text.

    Raises:
        DataError: the file is not UTF-8 or not CSV, its header names a column twice, or a row has fewer cells
            than the header. Cells beyond the header come under a name of their own, which no contract has.
    """
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


def typed_cells(path: Path, number: int, row: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """A row of `read_csv` with its cells as the columns' types: an empty cell is null, and what is no text is
    written as JSON.

    Args:
        path: the file, for messages.
        number: the row's number, from 1, for messages.
        row: column -> cell; each column is in the schema.
        schema: the columns' types.

    Raises:
        DataError: a cell that should hold JSON does not.
    """
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
        except TOO_MUCH as error:
            raise DataError(f"{path}: row {number}: column {column!r}: {too_much(error)}") from None
    return typed
