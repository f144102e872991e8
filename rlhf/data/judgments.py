"""Judgments by people, from the files of a folder: who preferred what, each checked and each once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf.data.contracts import JUDGMENT, PREFERENCES, row_id, with_ids
from rlhf.data.errors import DataError
from rlhf.data.formats.records import SUFFIXES, format_of
from rlhf.data.layouts.layout import Notes
from rlhf.data.reading import Source, read


def read_judgments(
    folder: Path | str, say: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """Rows of the contract JUDGMENT from every file of a type in `formats.records.SUFFIXES` in a folder.

    `judge_id` tells people apart; rows without one are by one unnamed person. A folder without such files
    holds no judgments, and neither does one that is not there.

    Args:
        folder: where the files lie.
        say: gets what a person should see, such as columns that are not read.

    Raises:
        DataError: a file that cannot be read, an empty cell, a word that is no judgment, a judgment not by a
            person, or two by one person of the same pair.
    """
    folder = Path(folder)
    rows: list[dict[str, Any]] = []
    places: dict[str, str] = {}  # judgment -> where it stands
    notes = Notes()
    for file in sorted(file for file in folder.glob("*") if format_of(file)[1] in SUFFIXES):
        for item in read(Source(str(file), layout="judgments", named_splits=False), notes):
            judgment = _by_a_person(item.row, item.where)
            key = row_id(JUDGMENT, judgment)
            if places.setdefault(key, item.where) != item.where:
                raise DataError(
                    f"{item.where}: {judgment['judge_id']} judged this pair in {places[key]} already; keep "
                    "one"
                )
            rows.append(judgment)
    for line in notes.lines():
        say(line)
    return with_ids(JUDGMENT, rows, folder.name)


def _by_a_person(row: dict[str, Any], where: str) -> dict[str, Any]:
    """A user's row with what it leaves out, checked."""
    judgment = {"shown_order": None, "split": None, "source": None} | row
    judgment["judge_id"] = judgment.get("judge_id") or "unnamed"
    judgment["judge_kind"] = judgment.get("judge_kind") or "human"
    for column in JUDGMENT.required:
        if judgment[column] is None:
            raise DataError(f"{where}: column {column!r} is empty")
    if judgment["preferred"] not in PREFERENCES:
        raise DataError(
            f"{where}: preferred is {judgment['preferred']!r}; it must be {', '.join(PREFERENCES)}"
        )
    if judgment["judge_kind"] != "human":
        raise DataError(f"{where}: judge_kind is {judgment['judge_kind']!r}; here only people judge (human)")
    if judgment["shown_order"] not in (None, [0, 1], [1, 0]):
        raise DataError(
            f"{where}: shown_order is {judgment['shown_order']}; it must be [0, 1] (reference first) or "
            "[1, 0]"
        )
    return judgment
