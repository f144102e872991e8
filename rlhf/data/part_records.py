"""The records of a part of a source: shard after shard, mapped, and with cells of a spreadsheet as values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rlhf.data.column_map import ColumnMap
from rlhf.data.errors import DataError
from rlhf.data.formats.cells import converters, turn_converters, typed
from rlhf.data.formats.parts import Part
from rlhf.data.formats.records import format_of, only_texts, records
from rlhf.data.layouts.layout import Notes, Record

SAMPLE = 200  # records whose columns tell what the others hold


@dataclass(frozen=True)
class Quarantined:
    """A record that could not be read and was put aside: where it stands, why, and what it says."""

    where: str
    why: str
    record: Any


PutAside = Callable[[Quarantined], None]


def part_records(
    part: Part, columns: Mapping[str, str], notes: Notes, put_aside: PutAside | None
) -> Iterator[Record]:
    """The records of a part, with the columns that a user's map names, and cells of a spreadsheet as values.

    Args:
        part: its files.
        columns: the map, see `ColumnMap`; empty leaves all columns as they are.
        notes: gets what a person should see.
        put_aside: gets the records that cannot be read; None ends the reading at the first.

    Raises:
        DataError: what cannot be read, or a shard has other columns than the first.
    """
    first: list[str] | None = None
    convert: Mapping[str, Callable[[str], Any]] | None = None
    for file in part.files:
        rows = _records(part, file, notes, put_aside)
        sample = list(islice(rows, SAMPLE))
        if not sample:
            continue
        known = dict.fromkeys(name for record in sample for name in record.columns)
        if first is None:
            first = list(known)
        elif known.keys() != set(first) and format_of(file)[1] not in (".jsonl", ".ndjson", ".json"):
            raise DataError(f"{part.told(str(file))}: {_other_columns(part.files[0], first, list(known))}")
        every: Iterator[Record] = chain(sample, rows)
        if not only_texts(file) and (spelled := turn_converters([record.columns for record in sample])):
            names = ", ".join(map(repr, spelled))
            notes.say(f"{part.told(str(file))}: {names}: texts that spell conversations are read as such")
            every = _each(every, partial(typed, converters=spelled), put_aside)
        if columns:
            every = _mapped(every, sample, columns, set(known), notes, put_aside)
        if only_texts(file):
            if convert is None:
                rows_in_hand = list(islice(every, SAMPLE))
                convert = converters([record.columns for record in rows_in_hand])
                every = chain(rows_in_hand, every)
            every = _each(every, partial(typed, converters=convert), put_aside)
        yield from every


def _records(part: Part, file: Path, notes: Notes, put_aside: PutAside | None) -> Iterator[Record]:
    """The records of a file; of an archive's file, each at the place that a user knows."""
    rows = records(file, lambda line: notes.say(part.told(line)), fault_of(part.told(str(file)), put_aside))
    return rows if part.archive is None else _told(part, rows)


def _told(part: Part, rows: Iterator[Record]) -> Iterator[Record]:
    try:
        for record in rows:
            yield Record(part.told(record.where), record.columns)
    except DataError as error:
        raise DataError(part.told(str(error))) from None


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


def fault_of(file: Path | str, put_aside: PutAside | None) -> Callable[[str, str, Any], None] | None:
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
