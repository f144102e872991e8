"""A `.json` file as rows: a list, an object with the list in it, splits with a list each, or JSON lines.

What pandas writes besides is read, too: an object of columns, of rows by their index, and its `split` form.
"""

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

# Names by which columns are told from the names of rows.
_COLUMNS = frozenset(
    (
        *("prompt", "question", "instruction", "input", "query", "context", "messages", "conversations"),
        *("chosen", "rejected", "completion", "completions", "response", "answer", "output", "text"),
        *("response_a", "response_1", "answer_a", "answer_1", "ranking", "label", "fields", "data"),
    )
)
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
    if told := _by_pandas(path, document, say):
        return told
    if len(document) == 1 and isinstance(inside := next(iter(document.values())), dict):
        return _rows(path, inside, say)  # an object around it all
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


def _by_pandas(path: Path, document: Mapping[str, Any], say: Callable[[str], None]) -> list[Any]:
    """The rows of what `DataFrame.to_json`, `to_dict` or the Hub's rows interface wrote; none of others.

    Raises:
        DataError: rows that were cut off, or of another number of cells than there are columns.
    """
    values = list(document.values())
    names, cells = document.get("columns"), document.get("data")
    if isinstance(names, list) and isinstance(cells, list) and all(isinstance(row, list) for row in cells):
        if odd := next((n for n, row in enumerate(cells, start=1) if len(row) != len(names)), None):
            raise DataError(f"{path}: row {odd}: {len(cells[odd - 1])} cells for {len(names)} columns")
        say(f"{path}: rows under 'data', their names under 'columns' (pandas: orient='split')")
        return [dict(zip(names, row, strict=True)) for row in cells]
    rows = document.get("rows")
    if "features" in document and isinstance(rows, list) and all("row" in row for row in rows):
        if cut := next((row for row in rows if row.get("truncated_cells")), None):
            raise DataError(
                f"{path}: row {cut.get('row_idx')}: cells {cut['truncated_cells']} are cut off there; fetch "
                "the data set's files"
            )
        say(f"{path}: its rows are those under 'rows', as the Hub shows them")
        return [row["row"] for row in rows]
    if len(values) > 1 and all(isinstance(value, Mapping) and value for value in values):
        inner = [value.keys() for value in values]
        if all(map(str.isdigit, document)) or (_COLUMNS & inner[0] and not _COLUMNS & document.keys()):
            say(f"{path}: an object of rows, {len(values)} of them (pandas: orient='index')")
            return values
        if all(keys == inner[0] for keys in inner) and (
            all(map(str.isdigit, inner[0])) or _COLUMNS & document.keys()
        ):
            say(f"{path}: an object of columns (pandas), each with its {len(inner[0])} rows")
            return [{name: column[key] for name, column in document.items()} for key in values[0]]
        if all(key.isdigit() for keys in inner for key in keys):
            raise DataError(
                f"{path}: an object of columns, which have not the same rows ({len(inner[0])} and others); "
                "write a list of rows (pandas: to_json(path, orient='records'))"
            )
    lists = [v for v in values if isinstance(v, list) and not any(isinstance(row, Mapping) for row in v)]
    if len(lists) == len(values) > 1 and len({len(value) for value in lists}) == 1:
        say(f"{path}: an object of columns, each a list of its {len(lists[0])} rows")
        return [dict(zip(document, row, strict=True)) for row in zip(*values, strict=True)]
    return []
