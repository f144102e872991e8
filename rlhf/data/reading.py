"""Reading a source: its files, the layout of each, and the rows of the contracts that they become."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Literal

from rlhf.data.contracts import JUDGMENT, TABLES, Contract, exact
from rlhf.data.errors import DataError
from rlhf.data.formats.parts import Part, parts
from rlhf.data.formats.records import records
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, UnknownWords
from rlhf.data.layouts.recognise import kinds, recognise
from rlhf.data.unnamed import Unnamed

SAMPLE = 200  # records whose columns tell the layout
_MEND = {
    "string": "write a text",
    "bool": "write true or false",
    "int64": "write a whole number or leave it out",
    "double": "write a number or leave it out",
    "list<item: string>": 'write a list of texts, such as ["a", "b"]',
    "list<item: int64>": "write a list of whole numbers, such as [1, 2]",
    "list<item: double>": "write a list of numbers, such as [0.5, 1]",
}


@dataclass(frozen=True)
class Quarantined:
    """A record that could not be read and was put aside: where it stands, why, and what it says."""

    where: str
    why: str
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """One source of rows, as params name it.

    Attributes:
        path: a file, a folder, or a pattern of files.
        name: what its rows carry as `source`; None takes the name of the file.
        layout: the name of its layout; None recognises it by the columns.
        columns: column of the contract -> the file's column, or a text with `{column}` in it.
        split: the split of all its rows; None takes what the rows or the file names say.
        unreadable: what becomes of a record that cannot be read.
        options: what the columns do not say.
    """

    path: str
    name: str | None = None
    layout: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    unreadable: Literal["refuse", "quarantine"] = "refuse"
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Recognised:
    """A part of a source with its layout and the records that told it."""

    part: Part
    layout: Layout
    columns: Mapping[str, str]
    sample: list[Record]


def recognised(source: Source) -> list[Recognised]:
    """The parts of a source and the layout of each, by their first records.

    Raises:
        DataError: a part has no records, or no layout that is known.
    """
    told = []
    for part in parts(source.path):
        sample = list(islice(_records(part, source), SAMPLE))
        if not sample:
            raise DataError(f"{part.files[0]}: no rows")
        columns = kinds(sample)
        try:
            layout = recognise(columns, source.layout)
        except DataError as error:
            raise DataError(f"{part.files[0]}: {error}") from None
        told.append(Recognised(part, layout, columns, sample))
    return told


def _records(part: Part, source: Source) -> Iterator[Record]:
    every = chain.from_iterable(records(file) for file in part.files)
    return every if not source.columns else map(lambda record: mapped(record, source.columns), every)


def mapped(record: Record, columns: Mapping[str, str]) -> Record:
    """A record with the columns that a user's map names: `{prompt: "question"}` takes the column `question`,
    `{prompt: "{title}\\n\\n{post}"}` writes a text of two; columns that the map does not name stay.

    Raises:
        DataError: the map names a column that the record lacks.
    """
    values = dict(record.columns)
    new: dict[str, Any] = {}
    for name, wanted in columns.items():
        try:
            new[name] = wanted.format_map(values) if "{" in wanted else values[wanted]
        except KeyError as error:
            raise DataError(
                f"{record.where}: ingest.columns names {error.args[0]!r}, but the columns are "
                f"{', '.join(values)}"
            ) from None
    taken = {wanted for wanted in columns.values() if "{" not in wanted}
    return Record(record.where, {k: v for k, v in values.items() if k not in taken} | new)


def read(
    source: Source, notes: Notes, put_aside: Callable[[Quarantined], None] | None = None
) -> Iterator[Item]:
    """The items of a source, in the order of its files and rows.

    Args:
        source: where they are and how they are read.
        notes: gets what a person should see.
        put_aside: gets the records that cannot be read, where the source quarantines them.

    Raises:
        DataError: what cannot be read, naming file and row; or nothing in the source could be read.
    """
    read_any = False
    unnamed = Unnamed()
    for told in recognised(source):
        kept, left = _unknown(told, source.options)
        if left:
            notes.say(
                f"{told.part.files[0]}: {_columns(left)} not read as {told.layout.name}; "
                "ingest.keep names the columns to keep"
            )
        groups = iter(told.layout.groups(_records(told.part, source)))
        for group in groups:
            try:
                items = list(told.layout.rows(group, source.options, notes))
                for item in items:
                    row = _completed(item, group[0], told.part, source, kept)
                    if item.table in ("comparisons", "votes") and row.get("labeler_id") in (None, ""):
                        row["labeler_id"] = unnamed.name(row)
                    read_any = True
                    yield Item(item.table, row)
            except DataError as error:
                if source.unreadable == "refuse" or put_aside is None:
                    if isinstance(error, UnknownWords):
                        error = _all_words(error, told.layout, groups, source.options)
                    raise DataError(f"{group[0].where}: {error}") from None
                for record in group:
                    put_aside(Quarantined(record.where, str(error), record.columns))
    for line in unnamed.lines(source.path):
        notes.say(line)
    if not read_any:
        passed = "; ".join(notes.lines())
        raise DataError(f"{source.path}: nothing in it could be read" + (f": {passed}" if passed else ""))


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


def _columns(names: Iterable[str]) -> str:
    names = list(names)
    return f"column{'s' * (len(names) > 1)} {', '.join(map(ascii, names))}"


def _unknown(told: Recognised, options: Options) -> tuple[set[str], list[str]]:
    """The columns beside the layout's own: those to keep, and those that are left out."""
    if told.layout.own is None:
        return set(), []
    beside = [name for name in told.columns if name not in told.layout.own]
    kept = set(beside) if "*" in options.keep else {name for name in beside if name in options.keep}
    return kept, [name for name in beside if name not in kept]


def _completed(item: Item, record: Record, part: Part, source: Source, kept: set[str]) -> dict[str, Any]:
    """An item's row with source, split and kept columns, each value checked against its column."""
    row = dict(item.row)
    row["source"] = row.get("source") or source.name or part.files[0].name
    if item.table != "corpus":
        row["split"] = source.split or row.get("split") or part.split
    extra = {name: record.columns[name] for name in kept if record.columns.get(name) is not None}
    if extra:
        extra |= json.loads(row.get("extra") or "{}")  # what the layout keeps by itself
        row["extra"] = json.dumps(extra, ensure_ascii=False, sort_keys=True, default=str)
    contract = _CONTRACTS.get(item.table)
    return row if contract is None else _exact(row, contract)


_CONTRACTS: dict[str, Contract] = {**TABLES, "judgments": JUDGMENT}


def _exact(row: dict[str, Any], contract: Contract) -> dict[str, Any]:
    for column, value in row.items():
        kind = contract.schema.field(column).type
        try:
            row[column] = exact(value, kind)
        except ValueError:
            raise DataError(
                f"column {column!r}: {ascii(value)[:60]} is no {kind}; "
                f"{_MEND.get(str(kind), 'mend it or leave it out')}"
            ) from None
    return row
