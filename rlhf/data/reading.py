"""Reading a source: its files, the layout of each, and the rows of the contracts that they become."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from rlhf.data.checked_rows import checked, contract_split
from rlhf.data.column_map import ColumnMap
from rlhf.data.errors import DataError
from rlhf.data.formats.cells import converters, typed
from rlhf.data.formats.parts import Part, parts
from rlhf.data.formats.records import format_of, only_texts, records
from rlhf.data.layout_choice import layout_of
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, UnknownWords
from rlhf.data.layouts.recognise import kinds
from rlhf.data.unnamed import Unnamed

SAMPLE = 200  # records whose columns tell the layout
LATE = 10  # columns behind these that are named, each with its row


@dataclass(frozen=True)
class Quarantined:
    """A record that could not be read and was put aside: where it stands, why, and what it says."""

    where: str
    why: str
    record: Any


PutAside = Callable[[Quarantined], None]


@dataclass(frozen=True)
class Source:
    """One source of rows, as params name it.

    Attributes:
        path: a file, a folder, or a pattern of files.
        name: what its rows carry as `source`; None takes the name of the file.
        layout: the name of its layout; None recognises it by the columns.
        columns: column of the contract -> the file's column, or a text with `{column}` in it.
        split: the split of all its rows; None takes what the rows or the file names say.
        named_splits: whether the names of files and folders say splits.
        weight: share of its rows that are taken, but for rows that say that they are held out.
        unreadable: what becomes of a record that cannot be read.
        best_answers: whether the best answer of a comparison is a demonstration as well.
        options: what the columns do not say.
    """

    path: str
    name: str | None = None
    layout: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    named_splits: bool = True
    weight: float = 1.0
    unreadable: Literal["refuse", "quarantine"] = "refuse"
    best_answers: Literal["comparisons", "demonstrations"] = "comparisons"
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Recognised:
    """A part of a source with its layout.

    Attributes:
        part: its files.
        layout: how their records are read.
        columns: name -> kind, over the first records.
        sample: the first records.
        records: all of them, to be read once.
    """

    part: Part
    layout: Layout
    columns: Mapping[str, str]
    sample: list[Record]
    records: Iterator[Record]


def recognised(
    source: Source, notes: Notes | None = None, put_aside: PutAside | None = None
) -> Iterator[Recognised]:
    """The parts of a source and the layout of each, by their first records.

    Args:
        source: where they are and how they are read.
        notes: gets what a person should see.
        put_aside: gets the records that cannot be read; None ends the reading at the first.

    Raises:
        DataError: a part has no records, or no layout that is known.
    """
    notes = notes or Notes()
    for part in parts(source.path, notes.say):
        if part.split is not None and source.named_splits and source.split is None:
            notes.say(f"{part.files[0]}: split {part.split}, by the name {part.said!r}")
        every = _records(part, source, notes, put_aside)
        sample = list(islice(every, SAMPLE))
        if not sample:
            if put_aside is not None:
                continue  # all of it is put aside
            raise DataError(f"{part.files[0]}: no rows")
        columns = kinds(sample)
        try:
            layout = layout_of(columns, source.layout, part.table, notes.say)
        except DataError as error:
            raise DataError(f"{part.files[0]}: {error}") from None
        yield Recognised(part, layout, columns, sample, chain(sample, every))


def read(
    source: Source,
    notes: Notes,
    put_aside: PutAside | None = None,
    saw: Callable[[Recognised], None] = lambda told: None,
) -> Iterator[Item]:
    """The items of a source with their places, in the order of its files and rows.

    Args:
        source: where they are and how they are read.
        notes: gets what a person should see.
        put_aside: gets the records that cannot be read, where the source quarantines them.
        saw: gets each part with its layout, before its rows.

    Raises:
        DataError: what cannot be read, naming file and row; or nothing in the source could be read.
    """
    first_aside: list[Quarantined] = []

    def note_and_put_aside(row: Quarantined) -> None:
        if not first_aside:
            first_aside.append(row)
        assert put_aside is not None
        put_aside(row)

    quarantines = put_aside is not None and source.unreadable == "quarantine"
    aside = note_and_put_aside if quarantines else None
    read_any = edited = False
    unnamed = Unnamed()
    for told in recognised(source, notes, aside):
        saw(told)
        beside = Beside(told, source.options, notes)
        layout, options = told.layout, source.options
        fixed = _Fixed(told.part, source, notes)
        groups = iter(layout.groups(told.records))
        for group in groups:
            first = group[0]
            try:
                kept = beside.of(group)
                items = [fixed.completed(item, first, kept) for item in layout.rows(group, options, notes)]
            except DataError as error:
                if aside is None:
                    if isinstance(error, UnknownWords):
                        error = _all_words(error, layout, groups, options)
                    raise DataError(f"{first.where}: {error}") from None
                for record in group:
                    aside(Quarantined(record.where, str(error), record.columns))
                continue
            for item in items:
                if item.table in ("comparisons", "votes") and not item.row.get("labeler_id"):
                    item.row["labeler_id"] = unnamed.name(item.row)
                read_any = True
                edited |= item.table == "edits"
                yield item
    for line in unnamed.lines(source.path):
        notes.say(line)
    if not read_any:
        why = "".join(f"; the first is {row.where}: {row.why}" for row in first_aside)
        raise DataError(f"{source.path}: nothing in it could be read{passed_over(notes)}{why}")
    if source.options.edit and not edited:
        raise DataError(
            f"{source.path}: ingest.edit names {source.options.edit!r}, and no text answers to it"
        )


def _all_words(
    error: UnknownWords, layout: Layout, groups: Iterable[list[Record]], options: Options
) -> UnknownWords:
    """The error with the unknown words of the records behind the first as well."""
    met = Counter(error.met)
    for group in groups:
        try:
            list(layout.rows(group, options, Notes()))
        except UnknownWords as more:
            met.update(more.met)
        except DataError:
            continue  # what is wrong there is said when the words are mapped
    return UnknownWords(met)


def passed_over(notes: Notes) -> str:
    """What was passed over, as the end of a line that says that nothing is left."""
    lines = [line for line in notes.lines() if line.startswith("passed over: ")][:5]
    return f": {'; '.join(lines)}" if lines else ""


def _records(part: Part, source: Source, notes: Notes, put_aside: PutAside | None) -> Iterator[Record]:
    """The records of a part, mapped and with cells as values."""
    first: list[str] | None = None
    convert: Mapping[str, Callable[[str], Any]] | None = None
    for file in part.files:
        rows = records(file, notes.say, _fault(file, put_aside))
        sample = list(islice(rows, SAMPLE))
        if not sample:
            continue
        known = dict.fromkeys(name for record in sample for name in record.columns)
        if first is None:
            first = list(known)
        elif known.keys() != set(first) and format_of(file)[1] not in (".jsonl", ".ndjson", ".json"):
            raise DataError(f"{file}: {_other_columns(part.files[0], first, list(known))}")
        every: Iterator[Record] = chain(sample, rows)
        if source.columns:
            every = _mapped(every, sample, source.columns, set(known), notes, put_aside)
        if only_texts(file):
            if convert is None:
                rows_in_hand = list(islice(every, SAMPLE))
                convert = converters([record.columns for record in rows_in_hand])
                every = chain(rows_in_hand, every)
            every = _each(every, partial(typed, converters=convert), put_aside)
        yield from every


def _mapped(
    every: Iterable[Record],
    sample: list[Record],
    columns: Mapping[str, str],
    known: set[str],
    notes: Notes,
    put_aside: PutAside | None,
) -> Iterator[Record]:
    place = sample[0].where.rpartition(":")[0]
    wanted = ColumnMap(
        columns,
        known,
        lambda column: notes.pass_over(
            f"empty cells of column {column!r} in a text of ingest.columns", place
        ),
    )
    for name in sorted(wanted.hidden):
        notes.say(f"{place}: column {name!r} gives way to what ingest.columns calls so")
    return _each(every, wanted, put_aside)


def _each(
    every: Iterable[Record], change: Callable[[dict[str, Any]], dict[str, Any]], put_aside: PutAside | None
) -> Iterator[Record]:
    for record in every:
        try:
            yield Record(record.where, change(record.columns))
        except DataError as error:
            if put_aside is None:
                raise DataError(f"{record.where}: {error}") from None
            put_aside(Quarantined(record.where, str(error), record.columns))


def _fault(file: Path, put_aside: PutAside | None) -> Callable[[str, str, Any], None] | None:
    if put_aside is None:
        return None
    return lambda place, why, value: put_aside(Quarantined(f"{file}: {place}", why, value))


def _other_columns(file: Path, first: list[str], here: list[str]) -> str:
    odd = [name for name in here if name not in first]
    if odd:
        return (
            f"has the column {odd[0]!r}, which {file.name}, a shard of the same table, has not; mend one of "
            "them"
        )
    lacks = next(name for name in first if name not in here)
    return f"lacks the column {lacks!r}, which {file.name}, a shard of the same table, has; mend one of them"


class Beside:
    """The columns beside a layout's own: those that a user keeps, and those that are left out and named.

    Args:
        told: a part with its layout.
        options: what a user keeps.
        notes: gets the names of those that are left out.
    """

    def __init__(self, told: Recognised, options: Options, notes: Notes) -> None:
        self._own, self._keep, self._notes = told.layout.own, frozenset(options.keep), notes
        self._layout, self._file = told.layout.name, told.part.files[0]
        self._late = 0
        self._seen: set[str] = set(told.columns)
        self._kept = {name for name in told.columns if self._is_kept(name)}
        left = [name for name in told.columns if self._is_left(name)]
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


class _Fixed:
    """What all rows of a part get: source, split and kept columns; and each value is checked."""

    def __init__(self, part: Part, source: Source, notes: Notes) -> None:
        file = part.files[0]
        # Shards and the files of a saved data set have names that say nothing about the rows.
        self._source = source.name or (file.name if format_of(file)[0] == part.name else part.name)
        self._split = source.split
        self._named = part.split if source.named_splits else None
        self._say = lambda line: notes.say(f"{file}: {line}")

    def completed(self, item: Item, record: Record, kept: dict[str, Any]) -> Item:
        """An item with what its row gets, and its place."""
        row = dict(item.row)
        row["source"] = row.get("source") or self._source
        if item.table != "corpus":
            split = row.get("split")
            if split is not None:
                split = contract_split(split, self._say)
            row["split"] = self._split or split or self._named
        if kept:
            before = row.get("extra")
            extra = (json.loads(before) if isinstance(before, str) else {}) | kept
            row["extra"] = json.dumps(extra, ensure_ascii=False, sort_keys=True, default=str)
        return Item(item.table, checked(item.table, row), record.where)
