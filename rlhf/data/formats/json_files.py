"""JSON files that people bring: every way in which one cannot be read is a line that names the place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.formats.text_files import read_text

# What `json.loads` raises for valid JSON that Python cannot hold. JSONDecodeError is a ValueError too, so it
# has to be caught before these.
TOO_MUCH = (ValueError, RecursionError)


def read_jsonl(path: Path) -> Iterator[Any]:
    """The values of a file with one JSON value a line; blank lines are skipped.

    Raises:
        DataError: the file is not UTF-8, or a line is not JSON; the message names the line as `row`.
    """
    # not splitlines(): JSON strings may hold U+2028 and other characters that it takes for line ends
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}: row {number}: not valid JSON ({error.msg} at column {error.colno}); "
                "is the line cut off?"
            ) from None
        except TOO_MUCH as error:
            raise DataError(f"{path}: row {number}: cannot be read ({too_much(error)})") from None


def read_json_list(path: Path) -> list[Any]:
    """The values of a file that is one JSON list.

    Raises:
        DataError: the file is not UTF-8, not JSON (the message names the line), or no list.
    """
    try:
        values = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: line {error.lineno}: not valid JSON ({error.msg}); is the file cut off?"
        ) from None
    except TOO_MUCH as error:
        raise DataError(f"{path}: cannot be read ({too_much(error)})") from None
    if not isinstance(values, list):
        raise DataError(f"{path}: expected a JSON list, got {type(values).__name__}")
    return values


def too_much(error: Exception) -> str:
    """Why Python cannot hold a value that JSON may spell."""
    return "lists within lists too deep" if isinstance(error, RecursionError) else "a number is too long"
