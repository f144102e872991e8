"""Cells of a spreadsheet as values: numbers, true or false, lists as JSON, in columns that hold no texts.

A CSV file has only texts. Which columns are more is told by their names where the contracts have them, else
by their cells: all of those in the first rows have to be values. A text stays the text that it is, also where
it is a number ("4" as an answer) or begins with a bracket (a list in Python).
"""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from rlhf.data.contracts import JUDGMENT, TABLES
from rlhf.data.errors import DataError
from rlhf.data.formats.json_files import value_of

_FIELDS = [field for contract in (*TABLES.values(), JUDGMENT) for field in contract.schema]
# Names of texts: the contracts' own, and what people call prompts, answers and who judged.
_TEXTS = {field.name for field in _FIELDS if pa.types.is_string(field.type)} | {
    *("question", "instruction", "input", "context", "history", "query", "title", "post", "article", "body"),
    *("document", "target", "response", "answer", "reply", "summary", "chosen", "rejected", "human_ref"),
    *("better_answer", "system", "comment", "reason", "rationale", "explanation", "feedback", "category"),
    *("model", "labeler", "annotator", "worker", "rater", "judge", "user", "author", "writer", "subject"),
}
_VALUES = {field.name for field in _FIELDS} - _TEXTS
# Texts about a row, which no conversation can be.
_ABOUT = ("note", "extra", "source", "split", "id", "labeler_id", "labeler_group", "writer_id", "policy")
_TURN = frozenset(("role", "from", "speaker", "content", "value", "text"))
_VALUE = re.compile(r"(.*[_ ])?(score|rank|ranking|rating|margin|strength|seconds|completions)s?([_ ].*)?")
_LAST = re.compile(r"(?:[ _.-]+[a-z]|[ _.-]*\d+)$")  # `response_a`, `answer 2`, but not `answers`
_STRUCTURE = re.compile(r"\s*[\[{]")
_PYTHON_TURNS = re.compile(rf"\s*\[?\s*\{{\s*'(?:{'|'.join(sorted(_TURN))})'\s*:")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}

Convert = Callable[[str], Any]


def converters(rows: Sequence[Mapping[str, str | None]]) -> dict[str, Convert]:
    """What makes a value of a cell, for each column that is none of texts.

    Args:
        rows: the first ones of a file.
    """
    columns: dict[str, list[str]] = {}
    for row in rows:
        for name, cell in row.items():
            columns.setdefault(name, []).extend([] if cell is None else [cell])
    told = ((name, _converter(name.lower(), cells)) for name, cells in columns.items())
    return {name: convert for name, convert in told if convert is not None}


def turn_converters(rows: Sequence[Mapping[str, Any]]) -> dict[str, Convert]:
    """What makes conversations of texts that spell them, as JSON or as Python shows them, for each column in
    which every text does; as an answer, such a text would be somebody's words.

    Args:
        rows: the first ones of a file whose values have types.
    """
    told: dict[str, Convert] = {}
    for name in rows[0] if rows else ():
        cells = [row.get(name) for row in rows]
        texts = [cell for cell in cells if isinstance(cell, str) and cell]
        if not texts or name in _ABOUT or not all(text.lstrip().startswith("[{") for text in texts):
            continue
        if all(map(_PYTHON_TURNS.match, texts)):
            told[name] = _spelled(_python_turns)
        elif all(_spoken(_structure(text)) for text in texts):
            told[name] = _spelled(_structure)
    return told


def _spoken(item: Any) -> bool:
    return _turns(item) and all({"role", "from", "speaker"} & turn.keys() for turn in item)


def _spelled(convert: Convert) -> Convert:
    return lambda cell: convert(cell) if isinstance(cell, str) else cell


def _converter(name: str, cells: Iterable[str]) -> Convert | None:
    cells = list(cells)
    if cells and name not in _ABOUT and all(map(_PYTHON_TURNS.match, cells)):
        return _python_turns
    if name in _VALUES or (_VALUE.fullmatch(name) and name not in _TEXTS):
        return value
    values = [value(cell) for cell in cells]
    if not cells or any(isinstance(item, str) for item in values):
        return None
    if name in _TEXTS or _LAST.sub("", name) in _TEXTS:
        turns = name not in _ABOUT and all(_turns(item) for item in values)
        return _structure if turns else None
    return value


def _turns(item: Any) -> bool:
    """Whether a value is a turn of a conversation, or a list of them: text that is JSON is a text."""
    turns = item if isinstance(item, list) else [item]
    return bool(turns) and all(isinstance(turn, dict) and bool(_TURN & turn.keys()) for turn in turns)


def _python_turns(cell: str) -> Any:
    """Turns that pandas wrote as Python shows them, which as a text would be somebody's answer.

    Raises:
        DataError: the list cannot be read, as one of NumPy, which shows no commas.
    """
    if not _PYTHON_TURNS.match(cell):
        return cell
    try:
        turns = literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        turns = None
    if not _turns(turns):
        raise DataError(
            f"{ascii(cell)[:40]} is a conversation as Python shows it; save the table as Parquet or JSON "
            "Lines, or the column as JSON"
        )
    return turns


def value(cell: str) -> Any:
    """What a cell holds besides text; a cell that is nothing else is its text.

    >>> value("[1, 2]"), value("2.5"), value("TRUE"), value("1,5"), value("007")
    ([1, 2], 2.5, True, '1,5', '007')
    """
    if _NUMBER.fullmatch(cell.strip()):
        try:
            return value_of(cell.strip())
        except DataError:
            return cell  # too long a number
    return _TRUTH[cell] if cell in _TRUTH else _structure(cell)


def _structure(cell: str) -> Any:
    if not _STRUCTURE.match(cell):
        return cell
    try:
        return value_of(cell)
    except DataError as error:
        if "stands twice" in str(error) or "no number that" in str(error) or "cannot be read" in str(error):
            raise
        return cell


def typed(row: Mapping[str, str | None], converters: Mapping[str, Convert]) -> dict[str, Any]:
    """A row with its cells as values.

    Raises:
        DataError: a cell holds JSON that cannot be kept; the line does not name the row.
    """
    new: dict[str, Any] = dict(row)
    for name, convert in converters.items():
        cell = row.get(name)
        if cell is not None:
            try:
                new[name] = convert(cell)
            except DataError as error:
                raise DataError(f"column {name!r}: {error}") from None
    return new
