"""People as judges: their judgments were made before and stand in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.data.contracts import JUDGMENT, PREFERENCES, row_id, with_ids
from rlhf.data.errors import DataError
from rlhf.data.readers import read_rows
from rlhf.judges.judge import Row

_TABLES = (".jsonl", ".json", ".csv", ".parquet")


@dataclass
class HumanJudge:
    """People, who judged before: their judgments are looked up.

    Attributes:
        rows: judgments by people, of the contract JUDGMENT.
        name: where they come from.
        kind: see `Judge`.
    """

    rows: Sequence[Row]
    name: str
    kind: str = "human"

    def judge(self, pairs: Sequence[Row]) -> list[Row]:
        """See `Judge.judge`; the rows are as they were given, `shown_order` included.

        Raises:
            DataError: none of the judgments is about these pairs.
        """
        columns = ("policy", "prompt", "reference", "output")
        asked = {tuple(pair[column] for column in columns) for pair in pairs}
        found = [row for row in self.rows if tuple(row[column] for column in columns) in asked]
        if not found:
            raise DataError(
                f"{self.name}: none of its {len(self.rows)} judgments is about these policies and texts; "
                "people must have seen the very outputs of this run"
            )
        return found


def human_judge(path: Path | str) -> HumanJudge:
    """Judge by people's judgments in a file, or in the files of a folder: `.jsonl`, `.json`, `.csv` or
    `.parquet`, contract JUDGMENT.

    `judge_id` tells people apart; rows without one are by one unnamed person.

    Raises:
        DataError: a file that cannot be read, an empty cell, a word that is no judgment, a judgment not by a
            person, or two by one person of the same pair.
    """
    path = Path(path)
    files = sorted(f for f in path.glob("*") if f.suffix in _TABLES) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no judgments; put a file with {', '.join(JUDGMENT.required)} there")
    rows: list[Row] = []
    first: dict[str, str] = {}
    for file in files:
        for number, given in enumerate(read_rows(file, JUDGMENT), start=1):
            rows.append(_judgment_by_a_person(given, f"{file}: row {number}", first))
    return HumanJudge(with_ids(JUDGMENT, rows, path.name), path.name)


def _judgment_by_a_person(given: Row, where: str, first: dict[str, str]) -> Row:
    """A user's row, checked; `first` remembers where each judgment stood."""
    row: Row = {"shown_order": None, "split": None, "source": None} | given
    row["judge_id"] = row.get("judge_id") or "unnamed"
    row["judge_kind"] = row.get("judge_kind") or "human"
    for column in JUDGMENT.required:
        if row[column] is None:
            raise DataError(f"{where}: column {column!r} is empty")
    if row["preferred"] not in PREFERENCES:
        raise DataError(f"{where}: preferred is {row['preferred']!r}; it must be {', '.join(PREFERENCES)}")
    if row["judge_kind"] != "human":
        raise DataError(f"{where}: judge_kind is {row['judge_kind']!r}; here only people judge (human)")
    if row["shown_order"] not in (None, [0, 1], [1, 0]):
        raise DataError(
            f"{where}: shown_order is {row['shown_order']}; it must be [0, 1] (reference first) or [1, 0]"
        )
    key = row_id(JUDGMENT, row)
    if first.setdefault(key, where) != where:
        raise DataError(f"{where}: {row['judge_id']} judged this pair in {first[key]} already; keep one")
    return row
