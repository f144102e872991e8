"""CSV files as spreadsheets and programs write them: rows by the names in the header, every cell a text.

What parts the cells (comma, semicolon, tab or bar) is told by the header alone: the one by which it falls
into most names. The texts of the rows have all of them.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from rlhf.data.errors import DataError
from rlhf.data.formats.compressed import opened
from rlhf.data.formats.formulas import is_guarded, unguarded
from rlhf.data.formats.text_files import Fault, text_lines

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
# What pandas calls the column of row numbers when it reads it back.
_INDEX = re.compile(r"Unnamed: \d+|__index_level_\d+__")
_LONE_RETURN = re.compile(r"(?<=\r)(?!\n)")


def read_csv(
    path: Path, kind: str, fault: Fault, say: Callable[[str], None]
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """The rows of a file and their numbers, from 1, the header not counted; an empty cell is None.

    Args:
        path: the file.
        kind: its type; in `.tsv` a tab is expected.
        fault: gets each row that cannot be read.
        say: gets what a person should see: columns without a name, empty lines of a spreadsheet.

    Raises:
        DataError: the file is not UTF-8, has no header, or the header names a column twice.
    """
    csv.field_size_limit(2**31 - 1)
    marked = is_guarded(path)
    with opened(path) as file:
        lines = _lines(path, text_lines(file, path))
        header, delimiter = _header(path, kind, lines)
        names = _names(path, header, say)
        kept = [(place, name) for place, name in enumerate(names) if name]
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        number = 0
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                number += 1
                fault(f"row {number}", f"not valid CSV ({error}); {_mend(error)}", None)
                continue
            if not cells:
                continue
            number += 1
            if not any(cells):
                say(f"{path}: rows of empty cells, such as row {number}, are left out")
                continue
            while len(cells) > len(names) and not cells[-1]:
                cells.pop()  # delimiters that spreadsheets put behind the last cell
            if len(cells) != len(names):
                fault(f"row {number}", _cells(len(cells), len(names), delimiter), cells)
                continue
            if marked:
                cells = [unguarded(cell) for cell in cells]
            yield number, {name: cells[place] or None for place, name in kept}


def _lines(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[str]:
    """Lines as `csv.reader` wants them: also split where old programs write a carriage return alone."""
    for _, line in lines:
        if "\r" in line[:-2] or line.endswith("\r"):
            yield from _LONE_RETURN.split(line)
        else:
            yield line


def _header(path: Path, kind: str, lines: Iterator[str]) -> tuple[list[str], str]:
    """The names in the header and what parts them."""
    text, said = "", None
    for line in lines:
        if not text and not line.strip():
            continue
        if not text and (sep := re.fullmatch(r"sep=(.)\s*", line)):  # Excel's own first line
            said = sep[1]
            continue
        text += line
        if text.count('"') % 2 == 0:
            break
    if not text:
        raise DataError(f"{path}: no rows, not even a header")
    names = {
        sign: split for sign in ([said] if said else DELIMITERS) if (split := _split(text, sign)) is not None
    }
    if not names:
        raise DataError(f"{path}: the header is not valid CSV: {ascii(text.strip())[:80]}")
    if kind == ".tsv" and len(names.get("\t", ())) > 1:
        return names["\t"], "\t"
    most = max(map(len, names.values()))
    signs = [sign for sign, split in names.items() if len(split) == most]
    if most > 1 and len(signs) > 1:
        raise DataError(
            f"{path}: the header falls into {most} columns by "
            f"{' as by '.join(DELIMITERS[sign] for sign in signs)}; quote the names that hold one of them"
        )
    if most == 1 and kind == ".txt":
        raise DataError(
            f"{path}: its first line is no header of several columns; texts alone are a CSV file with the "
            'header text, or JSON lines {"text": ...}'
        )
    return names[signs[0]], signs[0]


def _split(header: str, sign: str) -> list[str] | None:
    try:
        return next(csv.reader([header], delimiter=sign, strict=True))
    except (csv.Error, StopIteration):
        return None


def _names(path: Path, header: list[str], say: Callable[[str], None]) -> list[str]:
    """The names of the columns; those without one, and pandas' row numbers, are empty and left out."""
    names = [" ".join(name.split()) for name in header]
    while names and not names[-1]:
        names.pop()
    for place, name in enumerate(names):
        if not name or _INDEX.fullmatch(name):
            what = "numbers of rows" if place == 0 or name else "no name"
            say(f"{path}: column {place + 1} of the header has {what} and is left out")
            names[place] = ""
    twice = [name for name, count in Counter(filter(None, names)).items() if count > 1]
    if twice:
        raise DataError(f"{path}: the header names {twice[0]!r} twice; keep one of the columns")
    return names


def _mend(error: csv.Error) -> str:
    if "end of data" in str(error):
        return "a quoted text has no closing quote; is the file cut off?"
    return 'write a quote inside a quoted text twice ("")'


def _cells(cells: int, names: int, delimiter: str) -> str:
    if cells < names:
        return f"{cells} cells, fewer than the {names} of the header; is the line cut off?"
    if names == 1:
        return (
            f"{cells} cells, but the header has one name; is the first line a title? the names of the "
            "columns come first"
        )
    return (
        f"{cells} cells, more than the {names} of the header; quote the texts in which a "
        f"{DELIMITERS.get(delimiter, delimiter)} stands"
    )
