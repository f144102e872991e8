"""Rows that people bring, from any type of file, brought to a contract: each value is kept or refused.

Nothing is cut or guessed: a fraction is no whole number, a text is no list, a number written as text is no
number. Rankings alone may be any numbers, because means and competition ranks (1, 2, 2, 4) say the same thing
as the ranks 1, 2, 2, 3 of the contract: the smallest number is best, and only equal numbers tie.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from rlhf.data.contracts import Contract, exact
from rlhf.data.conversations import as_columns
from rlhf.data.errors import DataError
from rlhf.data.formats.cells import value as value_in
from rlhf.data.formats.records import SUFFIXES, format_of, only_texts, records
from rlhf.data.rankings import dense_ranks

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

    In CSV, lists are JSON (`["a", "b"]`) and empty cells are null. Rankings become dense ranks. Where a row
    has `messages`, the prompt may be left out, and those of a demonstration may end with the completion.

    Args:
        path: the file.
        contract: what its rows are.
        notes: gets a line for a person to see where rankings were not dense ranks.

    Raises:
        DataError: missing, empty or unreadable file, a broken line, a missing or unknown column, a value
            that its column cannot hold without changing it, messages that make no sense.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name the file in it")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; it needs one {contract.name} per row")
    if format_of(path)[1] not in SUFFIXES:
        raise DataError(f"{path}: unknown file type {path.suffix!r}; use {', '.join(SUFFIXES)}")
    rows = []
    for where, row in records(path):
        _check_columns(where, row, contract)
        if only_texts(path):
            texts = {field.name for field in contract.schema if pa.types.is_string(field.type)}
            row = {k: v if k in texts or v is None else value_in(v) for k, v in row.items()}
        rows.append(_conversation(where, row, contract) if "messages" in contract.schema.names else row)
    if not rows:
        raise DataError(f"{path}: no rows; it needs one {contract.name} per row")
    if "ranking" in contract.schema.names and (note := _make_dense(path, rows)) and notes is not None:
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


def _conversation(where: str, row: dict[str, Any], contract: Contract) -> dict[str, Any]:
    """The row with its conversation in the columns of its contract; see `as_columns`."""
    try:
        row = as_columns(row, ends_answered="completion" in contract.schema.names)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    if "completion" in contract.required and "completion" not in row:
        raise DataError(
            f"{where}: nothing answers the last message; end the messages with the assistant's, or bring a "
            "completion"
        )
    return row


def _check_columns(where: str, row: Any, contract: Contract) -> None:
    """Refuse a row that is no object, lacks a required column or has one that the contract does not know."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object with columns, got {type(row).__name__}")
    # Messages stand for the prompt, and perhaps end with the completion.
    told = ("prompt", "completion") if row.get("messages") else ()
    for column in contract.required:
        if column not in row and column not in told:
            raise DataError(
                f"{where}: column {column!r} is missing; a {contract.name} needs "
                f"{', '.join(contract.required)}"
            )
    for column in row:
        if column not in contract.schema.names:
            raise DataError(
                f"{where}: unknown column {column!r}; a {contract.name} may have "
                f"{', '.join(contract.schema.names)}"
            )


def _make_dense(path: Path, rows: list[dict[str, Any]]) -> str | None:
    """Make the rankings of rows dense ranks; returns what was read as what, None where all of them were."""
    changed: list[str] = []
    for number, row in enumerate(rows, start=1):
        ranking = row.get("ranking")
        if not isinstance(ranking, list):
            continue
        try:
            row["ranking"] = dense_ranks(ranking)
        except DataError:
            continue  # the check of the types names row and value
        if row["ranking"] != ranking:
            changed.append(f"{ranking} in row {number} as {row['ranking']}")
    if not changed:
        return None
    return (
        f"{path}: {len(changed)} of {len(rows)} rankings were not 1, 2, 3 ... without gaps and are read so, "
        f"such as {changed[0]}: the smallest number is best, and only equal numbers tie"
    )
