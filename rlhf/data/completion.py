"""What a row gets besides what its layout makes of a record: source, split, the columns that a user keeps."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.checked_rows import checked, contract_split
from rlhf.data.errors import DataError
from rlhf.data.formats.json_files import value_of
from rlhf.data.formats.parts import Part
from rlhf.data.formats.records import format_of
from rlhf.data.layouts.layout import Item, Layout, Notes, Record
from rlhf.data.layouts.values import MISSING
from rlhf.data.shown import shown

LATE = 10  # columns behind the first records that are named, each with its row


class Beside:
    """The columns beside a layout's own: those that a user keeps, and those that are left out and named.

    Args:
        file: the first of the part, for messages.
        layout: of the part.
        columns: of its first records.
        keep: the names of those that a user keeps; `*` keeps all.
        notes: gets the names of those that are left out.
        joined: those that are joined to the prompt.
    """

    def __init__(
        self,
        file: str,
        layout: Layout,
        columns: Collection[str],
        keep: Iterable[str],
        notes: Notes,
        joined: frozenset[str] = frozenset(),
    ) -> None:
        self._own = None if layout.own is None else layout.own | joined
        self._keep, self._notes = frozenset(keep), notes
        self._layout, self._file = layout.name, file
        self._late = 0
        self._seen: set[str] = set(columns)
        self._kept = {name for name in columns if self._is_kept(name)}
        left = [name for name in columns if self._is_left(name)]
        if left:
            notes.say(
                f"{self._file}: column{'s' * (len(left) > 1)} {', '.join(map(ascii, left))} not read as "
                f"{self._layout}; ingest.keep names the columns to keep"
            )

    def _is_kept(self, name: str) -> bool:
        return self._own is not None and name not in self._own and (name in self._keep or "*" in self._keep)

    def _is_left(self, name: str) -> bool:
        return self._own is not None and name not in self._own and not self._is_kept(name)

    def of(self, group: list[Record]) -> dict[str, Any]:
        """What the user keeps of a group of records, by its first."""
        if self._own is None:
            return {}
        for record in group:
            if not record.columns.keys() <= self._seen:
                for name in sorted(record.columns.keys() - self._seen):
                    self._seen.add(name)
                    if self._is_kept(name):
                        self._kept.add(name)
                    elif self._is_left(name):
                        self._late += 1
                        if self._late <= LATE:
                            self._notes.say(f"{record.where}: column {name!a} not read as {self._layout}")
                        else:  # keys that are data: there may be more of them than rows
                            self._notes.say(f"{self._file}: more than {LATE} such columns come later")
        columns = group[0].columns
        return {name: columns[name] for name in self._kept if columns.get(name) is not None}


class Completion:
    """What all rows of a part get: source, split and kept columns; and each value is checked.

    Args:
        part: its files.
        source: what its rows carry as `source`; None takes the name of the file.
        split: of all its rows; None takes what the rows or the name of the file say.
        named_splits: whether that name says one.
        notes: gets what a person should see.
    """

    def __init__(
        self, part: Part, source: str | None, split: str | None, named_splits: bool, notes: Notes
    ) -> None:
        file = part.files[0]
        # Shards and the files of a saved data set have names that say nothing about the rows.
        self._source = source or (file.name if format_of(file)[0] == part.name else part.name)
        self._split = split
        self._named = part.split if named_splits else None
        self._first = notes.first
        self._say = lambda line: notes.say(f"{part.place}: {line}")

    def completed_in_columns(self, columns: pa.RecordBatch, table: str) -> pa.RecordBatch:
        """Rows of a table with what each gets; their values are of its contract already, their splits too."""
        told = dict(zip(columns.schema.names, columns.columns, strict=True))
        nulls = pa.nulls(columns.num_rows, pa.string())
        source = told.get("source", nulls)
        told["source"] = pc.coalesce(pc.if_else(pc.equal(source, ""), None, source), self._source)
        if table != "corpus":
            split = nulls if self._split else told.get("split", nulls)
            default = pa.scalar(self._split or self._named, pa.string())
            told["split"] = pc.coalesce(split, default)
        return pa.RecordBatch.from_pydict(told)

    def completed(self, item: Item, record: Record, kept: dict[str, Any]) -> Item:
        """An item with what its row gets, and its place."""
        row = dict(item.row)
        row["source"] = row.get("source") or self._source
        for text in (row.get("prompt"), row.get("completion"), *(row.get("completions") or ())):
            if text in MISSING and self._first(("missing", text), record.where) == record.where:
                self._say(
                    f"a text is {text!r}, as programs write that nothing is there ({record.where} is the "
                    "first); leave such rows out where nobody said it"
                )
        if item.table != "corpus":
            split = row.get("split")
            if split is not None:
                split = contract_split(split, self._say)
            row["split"] = self._split or split or self._named
        if kept:
            extra = _object(row.get("extra")) | kept
            row["extra"] = json.dumps(extra, ensure_ascii=False, sort_keys=True, default=str)
        return Item(item.table, checked(item.table, row), record.where)


def _object(extra: Any) -> dict[str, Any]:
    """What a row keeps already, as a column of its own."""
    kept = value_of(extra) if isinstance(extra, str) and extra else extra or {}
    if not isinstance(kept, dict):
        raise DataError(f"column 'extra' is {shown(kept)}; it must be an object, as JSON, to keep more in it")
    return kept
