"""JSON files that people bring: every way in which one cannot be read is a line that names the place.

JSON as people write it has traps that Python's reader passes over: of a key twice in an object the last wins,
and NaN and Infinity are no JSON. Both are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from rlhf.data.errors import DataError
from rlhf.data.formats.compressed import opened
from rlhf.data.formats.text_files import Fault, read_text, text_lines

# What `json.loads` raises for valid JSON that Python cannot hold. JSONDecodeError is a ValueError too, so it
# has to be caught before these.
TOO_MUCH = (ValueError, RecursionError)


# Lists and objects within each other. Python reads more where its own stack is short and fewer where it is
# deep, so what one program takes would fail in another, and what is written of the value fails late.
DEEPEST = 200


class _Refused(ValueError):
    """JSON that says something twice, or a number that is none."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    columns = dict(pairs)
    if len(columns) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(f"the key {ascii(twice)[:60]} stands twice in an object; keep one of the two")
    return columns


def _number(word: str) -> NoReturn:
    raise _Refused(f"{word} is no number that JSON knows; write a number, or null")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_number)


def value_of(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        DataError: the text is no JSON, or holds what cannot be kept; the line does not name the file.
    """
    try:
        value = _DECODER.decode(text)
        _check_depth(value, text)
    except TOO_MUCH as error:
        raise DataError(refusal(error, text)) from None
    return value


def first_value(text: str, place: int) -> tuple[Any, int]:
    """The value that begins at a place of a text, and the place behind it.

    Raises:
        ValueError, RecursionError: `refusal` says why.
    """
    value, end = _DECODER.raw_decode(text, place)
    _check_depth(value, text, place, end)
    return value, end


def _check_depth(value: Any, text: str, *place: int) -> None:
    """Refuse a value that is too deep; of most texts, counting their brackets is enough."""
    if text.count("[", *place) + text.count("{", *place) <= DEEPEST:
        return
    inside = [value]
    for _ in range(DEEPEST + 1):
        inside = [item for held in inside for item in _items(held)]
        if not inside:
            return
    raise _Refused(f"more than {DEEPEST} lists or objects within each other; leave the row out")


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def refusal(error: Exception, text: str, lines: int = 0) -> str:
    """Why a JSON text is refused, in words.

    Args:
        error: what the decoder raised.
        text: the text.
        lines: how many lines stand before it.
    """
    if isinstance(error, _Refused):
        return str(error)
    if not isinstance(error, json.JSONDecodeError):
        return f"cannot be read ({too_much(error)})"
    line = lines + error.lineno
    place = f" at column {error.colno}" if line == 1 else f" at line {line}"
    end = error.msg.startswith("Unterminated") or error.pos >= len(text.rstrip()) - 1
    mend = "; is the line cut off?" if end else ""
    if text.strip() == "{":
        mend = "; a row is one object on one line"
    elif text.lstrip().startswith(("//", "#", "/*")):
        mend = "; that is a comment, and JSON has none: leave it out"
    elif error.msg == "Extra data" and text[error.pos :].strip() == ",":
        mend = "; leave the comma behind it out, or write all of them as a list"
    elif re.match(r",\s*[}\]]", text[: error.pos + 1][text[: error.pos].rfind(",") :]):
        mend = "; leave the comma before it out"
    elif error.msg == "Extra data":
        mend = "; more follows than one value: write each on a line of its own, or all of them as a list"
    return f"not valid JSON ({error.msg}{place}){mend}"


def json_lines(path: Path, fault: Fault) -> Iterator[tuple[int, Any]]:
    """The values of a file with one JSON value a line, by the numbers of the lines; blank ones are skipped.

    Args:
        path: the file.
        fault: gets each line that cannot be read.
    """
    with opened(path) as file:
        yield from values_of_lines(text_lines(file, path, fault), fault)


def values_of_lines(lines: Iterable[tuple[int, str]], fault: Fault) -> Iterator[tuple[int, Any]]:
    """The values of lines by their numbers; see `json_lines`."""
    for number, line in lines:
        if not line.strip():
            continue
        try:
            value = value_of(line)
        except DataError as error:
            fault(f"row {number}", str(error), line)
            continue
        yield number, value


def read_jsonl(path: Path) -> Iterator[Any]:
    """The values of a file with one JSON value a line.

    Raises:
        DataError: the file is not UTF-8, or a line is not JSON; the message names the line as `row`.
    """
    for _, value in json_lines(path, refusing(path)):
        yield value


def read_json_list(path: Path) -> list[Any]:
    """The values of a file that is one JSON list.

    Raises:
        DataError: the file is not UTF-8, not JSON (the message names the line), or no list.
    """
    try:
        values = value_of(read_text(path))
    except DataError as error:
        named = str(error).startswith(str(path))
        raise error if named else DataError(f"{path}: {error}") from None
    if not isinstance(values, list):
        raise DataError(f"{path}: expected a JSON list, got {type(values).__name__}")
    return values


def refusing(path: Path) -> Fault:
    """What ends the reading of a file at the first row that cannot be read."""

    def refuse(place: str, why: str, value: Any) -> NoReturn:
        raise DataError(f"{path}: {place}: {why}")

    return refuse


def too_much(error: Exception) -> str:
    """Why Python cannot hold a value that JSON may spell."""
    return "lists within lists too deep" if isinstance(error, RecursionError) else "a number is too long"
