"""A `.json` file as rows: a list, an object with the list in it, splits with a list each, or JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.formats.compressed import opened
from rlhf.data.formats.json_files import TOO_MUCH, first_value, json_lines, refusal, value_of
from rlhf.data.formats.split_names import split_named
from rlhf.data.formats.text_files import CHUNK, Fault, read_text, text_chunks, text_lines

_SPACE = re.compile(r"[ \t\r\n]*")


def read_document(path: Path, fault: Fault, say: Callable[[str], None]) -> Iterator[tuple[int, Any]]:
    """The rows of a `.json` file and their numbers, from 1.

    Args:
        path: the file.
        fault: gets each row that cannot be read, where the file is JSON lines.
        say: gets a line for people where the rows are not simply the list that the file is.

    Raises:
        DataError: the file is no JSON, or nothing in it is a list of rows.
    """
    if _is_list(path):
        yield from enumerate(_elements(path), start=1)
    elif _is_lines(path):
        say(f"{path}: JSON lines, although its name ends in .json")
        yield from json_lines(path, fault)
    else:
        try:
            document = value_of(read_text(path))
        except DataError as error:
            raise _of_file(path, str(error)) from None
        yield from enumerate(_rows(path, document, say), start=1)


def _of_file(path: Path, why: str) -> DataError:
    line = why if why.startswith(str(path)) else f"{path}: {why}"
    return DataError(line.replace("is the line cut off?", "is the file cut off?"))


def _is_list(path: Path) -> bool:
    with opened(path) as file:
        return next(text_chunks(file, path), "").lstrip().startswith("[")


def _elements(path: Path) -> Iterator[Any]:
    """The values of a file that is a list, one after another, so that memory does not grow with the file."""
    with opened(path) as file:
        chunks = text_chunks(file, path)
        text, place, lines, number = next(chunks).lstrip(), 1, 0, 1
        while True:
            try:
                place = _SPACE.match(text, place).end()  # type: ignore[union-attr]
                if number == 1 and text[place : place + 1] == "]":
                    break
                value, end = first_value(text, place)
                end = _SPACE.match(text, end).end()  # type: ignore[union-attr]
                if text[end : end + 1] not in (",", "]"):
                    raise json.JSONDecodeError("Expecting ',' delimiter", text, end)
            except TOO_MUCH as error:
                # The value may go on in what is not read yet; twice as much each time, so that a long one is
                # not read anew for every bit of it.
                more = "".join(islice(chunks, 1 + (len(text) - place) // CHUNK))
                if not more:
                    raise _of_file(path, f"row {number}: {refusal(error, text, lines)}") from None
                lines += text.count("\n", 0, place)
                text, place = text[place:] + more, 0
                continue
            yield value
            place, number = end + 1, number + 1
            if text[end] == "]":
                break
        rest = text[place + (number == 1) :] + "".join(chunks)
        if rest.strip():
            raise DataError(f"{path}: more follows behind the list: {ascii(rest.strip())[:40]}")


def _is_lines(path: Path) -> bool:
    """Whether the first line is a whole object and another follows it."""
    with opened(path) as file:
        lines = (line for _, line in text_lines(file, path) if line.strip())
        first = next(lines, "")
        if not first.lstrip().startswith("{") or next(lines, None) is None:
            return False
    try:
        json.loads(first)
    except TOO_MUCH:
        return False
    return True


def _rows(path: Path, document: Any, say: Callable[[str], None]) -> list[Any]:
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected a list of rows, got {type(document).__name__}")
    tables = {name: rows for name, rows in document.items() if _is_table(rows)}
    splits = {name: split_named(name) for name in tables}
    if tables and len(tables) == len(document) and all(splits.values()):
        say(f"{path}: its splits are {', '.join(f'{name} ({split})' for name, split in splits.items())}")
        return [
            row if "split" in row else row | {"split": splits[name]}
            for name, rows in tables.items()
            for row in rows
        ]
    if len(tables) == 1:
        [(name, rows)] = tables.items()
        beside = [key for key in document if key != name]
        left = f"; beside it {', '.join(map(ascii, beside))}, not read" if beside else ""
        say(f"{path}: its rows are the list {name!r}{left}")
        return rows
    alike = len({frozenset(rows[0]) for rows in tables.values()}) == 1
    if len(tables) == len(document) > 1 and alike and not any(splits.values()):
        first = next(iter(tables))
        say(f"{path}: its rows are those of all its {len(tables)} lists, such as {first!r}")
        return [row for rows in tables.values() for row in rows]
    if len(tables) > 1:
        raise DataError(
            f"{path}: an object with several lists of rows, {', '.join(tables)}; write each to a file of its "
            "own"
        )
    if (
        document
        and all(isinstance(value, (list, dict)) for value in document.values())
        and _by_columns(document)
    ):
        raise DataError(
            f"{path}: an object of columns; write a list of rows (pandas: to_json(path, orient='records'))"
        )
    return [document]


def _is_table(value: Any) -> bool:
    """Whether it is a list of rows: of objects which are no turns of a conversation."""
    if not isinstance(value, list) or not value:
        return False
    return all(
        isinstance(row, Mapping)
        and not {"role", "content"} <= row.keys()
        and not {"from", "value"} <= row.keys()
        for row in value
    )


def _by_columns(document: Mapping[str, Any]) -> bool:
    """Whether it is how pandas writes columns: an object or a list for each."""
    values = list(document.values())
    if all(isinstance(value, Mapping) for value in values):
        return all(
            value.keys() == values[0].keys() and all(key.isdigit() for key in value) for value in values
        )
    lists = [v for v in values if isinstance(v, list) and not any(isinstance(row, Mapping) for row in v)]
    return len(lists) == len(values) > 1 and len({len(value) for value in lists}) == 1
