"""Reading a source: its files, the layout of each, and the rows of the contracts that they become."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from rlhf.data.block_reading import BlockReading, Portion
from rlhf.data.completion import Beside, Completion
from rlhf.data.errors import UNFIT, DataError
from rlhf.data.formats.parts import Part, parts
from rlhf.data.layout_choice import layout_of
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, UnknownWords
from rlhf.data.layouts.recognise import kinds
from rlhf.data.part_records import SAMPLE, PutAside, Quarantined, fault_of, part_records
from rlhf.data.prompt_parts import PromptParts
from rlhf.data.shown import shown
from rlhf.data.unnamed import Unnamed


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
            notes.say(f"{part.place}: split {part.split}, by the name {part.said!r}")
        every = part_records(part, source.columns, notes, put_aside)
        sample = list(islice(every, SAMPLE))
        if not sample:
            if put_aside is not None:
                continue  # all of it is put aside
            raise DataError(f"{part.place}: no rows")
        columns = kinds(sample)
        try:
            layout = layout_of(columns, source.layout, part.table, notes.say)
        except DataError as error:
            raise DataError(f"{part.place}: {error}") from None
        yield Recognised(part, layout, columns, sample, chain(sample, every))


def read(
    source: Source,
    notes: Notes,
    put_aside: PutAside | None = None,
    saw: Callable[[Recognised], None] = lambda told: None,
) -> Iterator[Item]:
    """The items of a source with their places, in the order of its files and rows; see `read_any`."""
    for item in read_any(source, notes, put_aside, saw):
        assert isinstance(item, Item)
        yield item


def read_any(
    source: Source,
    notes: Notes,
    put_aside: PutAside | None = None,
    saw: Callable[[Recognised], None] = lambda told: None,
    in_portions: bool = False,
) -> Iterator[Item | Portion]:
    """The items of a source with their places, in the order of its files and rows, or portions of them.

    Args:
        source: where they are and how they are read.
        notes: gets what a person should see.
        put_aside: gets the records that cannot be read, where the source quarantines them.
        saw: gets each part with its layout, before its rows.
        in_portions: whether rows that are plain come as columns, where the layout can be read so.

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
    some = edited = False
    unnamed, options = Unnamed(), source.options

    def one_by_one(told: Recognised, records: Iterable[Record]) -> Iterator[Item]:
        layout = told.layout
        groups = _groups(told.part, layout, records)
        for group in groups:
            first = group[0]
            try:
                kept = beside.of(group)
                rows = layout.rows(group, options, notes)
                if not asked.none:
                    rows = [asked.joined(item, first) for item in rows]
                items = [fixed.completed(item, first, kept) for item in rows]
            except UNFIT as unfit:
                error = _unfit(unfit, layout, first.columns)
                # A number that counts no output says that others in the file may count something else than
                # was read; without its row the rest would pass for sure.
                if aside is None or (isinstance(error, UnknownWords) and error.numbers):
                    if isinstance(error, UnknownWords):
                        error = _all_words(error, layout, groups, options)
                    raise DataError(f"{first.where}: {error}") from None
                for record in group:
                    aside(Quarantined(record.where, str(error), record.columns))
                continue
            for item in items:
                if item.table in ("comparisons", "votes") and not item.row.get("labeler_id"):
                    item.row["labeler_id"] = unnamed.name(item.row)
                yield item

    for told in recognised(source, notes, aside):
        saw(told)
        asked = PromptParts(told.layout, told.columns, options.keep, notes)
        beside = Beside(told.part.place, told.layout, told.columns, options.keep, notes, asked.columns)
        fixed = Completion(told.part, source.name, source.split, source.named_splits, notes)
        reading = BlockReading(told.part, told.layout, told.columns, options)
        pieces: Iterable[Portion | Iterator[Record]] = [told.records]
        plain = asked.none and not (source.columns or first_aside)
        if in_portions and plain and reading.possible:
            pieces = reading.pieces(
                partial(_of_file, told.part, notes, aside), partial(fault_of, put_aside=aside)
            )
        for piece in pieces:
            if isinstance(piece, Portion):
                some = True
                rows = fixed.completed_in_columns(piece.batch, piece.table)
                yield Portion(piece.table, unnamed.named(rows) if piece.table == "comparisons" else rows)
                continue
            for item in one_by_one(told, piece):
                some = True
                edited |= item.table == "edits"
                yield item
    for line in unnamed.lines(source.path):
        notes.say(line)
    if not some:
        why = "".join(f"; the first is {row.where}: {row.why}" for row in first_aside)
        raise DataError(f"{source.path}: nothing in it could be read{passed_over(notes)}{why}")
    if source.options.edit and not edited:
        raise DataError(
            f"{source.path}: ingest.edit names {source.options.edit!r}, and no text answers to it"
        )


def _groups(part: Part, layout: Layout, records: Iterable[Record]) -> Iterator[list[Record]]:
    """The records that belong together; what cannot be grouped has no row to name, but the file."""
    try:
        yield from layout.groups(records)
    except DataError:
        raise  # of a record, which it names
    except UNFIT as error:
        raise DataError(f"{part.place}: {_unfit(error, layout, {})}") from error


def _unfit(error: Exception, layout: Layout, columns: Mapping[str, Any]) -> DataError:
    """Why a layout cannot read a record: in its own words, or what it met where it expected something else.

    A layout is told by the columns of the first records, so any other may lack one, or hold in it whatever
    JSON can spell.
    """
    if isinstance(error, DataError):
        return error
    if isinstance(error, KeyError) and error.args and error.args[0] not in columns:
        told = f"{shown(error.args[0])} is missing, which a record of the layout {layout.name} has"
    else:
        told = f"it is no record of the layout {layout.name} ({type(error).__name__}: {shown(str(error))})"
    unfit = DataError(f"{told}; mend it, or name another layout in ingest.layout")
    unfit.__cause__ = error
    return unfit


def _of_file(part: Part, notes: Notes, aside: PutAside | None, file: Path) -> Iterator[Record]:
    return part_records(replace(part, files=(file,)), {}, notes, aside)


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
    return type(error)(met)


def passed_over(notes: Notes) -> str:
    """What was passed over, as the end of a line that says that nothing is left."""
    lines = [line for line in notes.lines() if line.startswith("passed over: ")][:5]
    return f": {'; '.join(lines)}" if lines else ""
