"""A table as the rules see it: in batches of Arrow columns, never as a list of dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.columns import values_of
from rlhf.data.contracts import SPLITS, TABLES, Contract
from rlhf.data.normal_form import DIGEST, digests_of, spelled
from rlhf.data.table import ahead

ROWS = 2048  # of a batch: what the rules derive of it lies in memory beside it
Numbers = np.ndarray[Any, Any]


class Flat(NamedTuple):
    """The items of a list column, one behind the other, and the row of the batch that each is of."""

    values: Any  # an Arrow array
    rows: Numbers


class Batch:
    """Some rows of a table, and what several rules derive of them."""

    def __init__(self, contract: Contract, columns: pa.RecordBatch) -> None:
        self.contract, self._columns, self.size = contract, columns, columns.num_rows

    def has(self, name: str) -> bool:
        """Whether the table has this column."""
        return name in self.contract.schema.names

    def __getitem__(self, name: str) -> Any:
        """A column as an Arrow array."""
        return self._columns.column(name)

    def row(self, number: int) -> dict[str, Any]:
        """One row, counted from 0."""
        return self._columns.slice(number, 1).to_pylist()[0]

    def null(self, name: str) -> Numbers:
        """The rows in which a column is null."""
        return numpy(pc.is_null(self[name]))

    def flat(self, name: str) -> Flat:
        """The items of a list column; a null list has none."""
        return _flat(self[name])

    @cached_property
    def answers(self) -> Flat:
        """The completions of all rows, one or several a row."""
        if self.has("completions"):
            return self.flat("completions")
        return Flat(self["completion"], np.arange(self.size))

    @cached_property
    def answer_texts(self) -> list[str | None]:
        """The completions of all rows as Python's texts."""
        return values_of(self.answers.values)

    @cached_property
    def prompt_texts(self) -> list[str | None]:
        """The prompts as Python's texts."""
        return values_of(self["prompt"])

    @cached_property
    def ranks(self) -> Flat:
        """The ranks of all rows, as floats in which NaN is no rank."""
        flat = self.flat("ranking")
        values = pc.fill_null(pc.cast(flat.values, pa.float64()), float("nan"))
        return Flat(numpy(values), flat.rows)

    @cached_property
    def ranked(self) -> tuple[Any, Numbers, Numbers]:
        """The completions of all rows that have as many ranks: their texts, their ranks and their rows."""
        whole = self.lengths["ranking"] == self.lengths["completions"]
        texts, rows = self.answers
        kept, ranks = whole[rows], self.ranks.values[whole[self.ranks.rows]]
        return texts.filter(pa.array(kept)), ranks, rows[kept]

    @cached_property
    def lengths(self) -> dict[str, Numbers]:
        """Column -> the number of items of each list, 0 for null."""
        return {
            field.name: numpy(pc.fill_null(pc.list_value_length(self[field.name]), 0))
            for field in self._columns.schema
            if pa.types.is_list(field.type)
        }

    @cached_property
    def contents(self) -> Flat:
        """The texts of all turns of all conversations."""
        turns = self.flat("messages")
        return Flat(pc.struct_field(turns.values, "content"), turns.rows)

    @cached_property
    def plain(self) -> Numbers:
        """The rows whose prompt is plain text."""
        return self.null("messages") if self.has("messages") else np.ones(self.size, bool)

    @cached_property
    def texts(self) -> list[tuple[str, Flat]]:
        """Every text of a row that a person wrote: the name of the column, and its texts."""
        told = [
            (name, Flat(self[name], np.arange(self.size)))
            for name in ("text", "prompt", "completion")
            if self.has(name)
        ]
        told += [("completions", self.answers)] if self.has("completions") else []
        return [*told, *([("messages", self.contents)] if self.has("messages") else [])]

    @cached_property
    def digests(self) -> bytes:
        """The id of each row by its content, `DIGEST` bytes each."""
        return digests_of(self.contract, self._columns)

    def of_rows(self, flat: Flat, mask: Any) -> Numbers:
        """The rows of which at least one item is in a mask."""
        rows = np.zeros(self.size, bool)
        rows[flat.rows[numpy(pc.fill_null(mask, False)) if isinstance(mask, pa.Array) else mask]] = True
        return rows


@dataclass(frozen=True)
class Gathered:
    """What a rule over a whole table asks of each batch: gathered in the pass over the table in which the
    rules of rows are computed, and kept on the view, so that no table is read once for each rule.

    Attributes:
        name: of it, which no other has.
        columns: what is read of a table of this contract, where nothing else is asked in the pass.
        of_batch: the arrays that a batch gives; it gets the number of its first row as well.
        kinds: the types of the arrays.
    """

    name: str
    columns: Callable[[Contract], Sequence[str]]
    of_batch: Callable[[Batch, int], Sequence[Numbers]]
    kinds: Sequence[Any]


def _content(contract: Contract) -> list[str]:
    return [*contract.content, *(["messages"] if "messages" in contract.schema.names else [])]


def _other_id(batch: Batch, _: int) -> list[Numbers]:
    same = pc.equal(spelled(batch.digests), batch["id"])
    return [~numpy(pc.fill_null(same, False))]


PROMPTS = Gathered(
    "prompts", lambda _: ["prompt"], lambda batch, _: [text_hashes(batch["prompt"])], [np.uint64]
)
OWN_IDS = Gathered(
    "own ids", _content, lambda batch, _: [np.frombuffer(batch.digests, f"u{DIGEST}")], [np.uint64]
)
OTHER_IDS = Gathered("other ids", lambda contract: [*_content(contract), "id"], _other_id, [np.bool_])


class Rows(Protocol):
    """A table of which a view reads batches: `rlhf.data.table.Table`, or an Arrow table by `InMemory`."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> dict[str, Any]: ...

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows as Arrow, in order; only these columns, or all."""
        ...


class InMemory:
    """Rows that are in memory anyway, as a view reads them.

    Args:
        rows: with every column of the contract, or some.
        contract: what they are.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], contract: Contract) -> None:
        self._table = pa.Table.from_pylist(list(rows), contract.schema)

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self._table.slice(place, 1).to_pylist()[0]

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """See `Rows`."""
        wanted = self._table if columns is None else self._table.select(list(columns))
        yield from wanted.to_batches(max_chunksize=ROWS)


class View:
    """A whole table, read in batches, beside the other tables of the same data.

    Args:
        name: of the table.
        table: its rows.
        beside: name -> view of every table, this one included, for rules over several.
        groups: gives the groups of near-duplicates of prompts by the hashes of their texts, -1 for those that
            are alone; without it all are.
    """

    def __init__(
        self,
        name: str,
        table: Rows,
        beside: dict[str, View] | None = None,
        groups: Callable[[Numbers], Numbers] | None = None,
    ) -> None:
        self.name, self.contract, self.table = name, TABLES[name], table
        self._groups_of = groups
        self.last: Mapping[str, Any] | None = None  # the profile of the table's last version
        self.beside = {} if beside is None else beside
        self.beside[name] = self
        self.size = len(table)
        self._gathered: dict[str, list[Numbers]] = {}

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """The rows in batches, in their order.

        Args:
            columns: the columns that are read; None for all.
        """
        for group in self.table.batches(columns):
            for start in range(0, group.num_rows, ROWS):
                yield Batch(self.contract, group.slice(start, ROWS))

    def gathering(self, wanted: Sequence[Gathered], columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """The rows in batches, of each of which is gathered what is wanted and not known yet: in a thread of
        its own, since most of that is Arrow's work, while the batch before is looked at."""
        wanted = list({need.name: need for need in wanted if need.name not in self._gathered}.values())
        parts: dict[str, list[list[Numbers]]] = {
            need.name: [[np.zeros(0, kind)] for kind in need.kinds] for need in wanted
        }

        def gather(batch: Batch, start: int) -> tuple[Batch, list[Sequence[Numbers]]]:
            return batch, [need.of_batch(batch, start) for need in wanted]

        def numbered() -> Iterator[tuple[Batch, int]]:
            start = 0
            for batch in self.batches(columns):
                yield batch, start
                start += batch.size

        for batch, told in ahead(partial(gather, *each) for each in numbered()):
            for need, new in zip(wanted, told, strict=True):
                for part, array in zip(parts[need.name], new, strict=True):
                    part.append(array)
            yield batch
        for name, arrays in parts.items():
            self._gathered[name] = [np.concatenate(part) for part in arrays]

    def gathered(self, what: Gathered) -> list[Numbers]:
        """The arrays of all rows; the table is read for it where no pass has gathered it."""
        if what.name not in self._gathered:
            for _ in self.gathering([what], what.columns(self.contract)):
                pass
        return self._gathered[what.name]

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all rows; for short ones, such as splits and labelers."""
        if name not in self._kept:
            parts = [batch[name] for batch in self.batches([name])]
            kind = self.contract.schema.field(name).type
            self._kept[name] = pa.chunked_array(parts, type=kind)
        return self._kept[name]

    @cached_property
    def _kept(self) -> dict[str, pa.ChunkedArray]:
        return {}

    def row(self, number: int) -> dict[str, Any]:
        """One row, counted from 0."""
        return self.table[number]

    def place(self, number: int) -> str:
        """Where a row stands, for people: which row of its source it is."""
        source = self.row(number)["source"]
        if source is None:
            return f"row {number + 1} of an unknown source"
        if self.name in ("prompts", "corpus"):  # most are of other tables' rows, and stand here once
            return f"{self.contract.name} {number + 1}, of {source}"
        before = pc.equal(self.column("source").slice(0, number + 1), pa.scalar(source, pa.string()))
        return f"row {pc.sum(before).as_py()} of {source}"

    @property
    def own_ids(self) -> Numbers:
        """The id that each row has by its content, as a number."""
        return self.gathered(OWN_IDS)[0]

    @property
    def other_ids(self) -> Numbers:
        """The rows with another id than that."""
        return self.gathered(OTHER_IDS)[0]

    @property
    def prompts(self) -> Numbers:
        """A 64-bit hash of each row's prompt."""
        return self.gathered(PROMPTS)[0]

    @cached_property
    def groups(self) -> Numbers:
        """The number of the group of near-duplicates of each row's prompt, -1 for those that are alone."""
        return np.full(self.size, -1) if self._groups_of is None else self._groups_of(self.prompts)

    def hashes(self, name: str) -> Numbers:
        """A 64-bit hash of each row's text in a column; null has a hash of its own."""
        parts = [text_hashes(batch[name]) for batch in self.batches([name])]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def views(tables: Mapping[str, Rows], groups: Callable[[Numbers], Numbers] | None = None) -> dict[str, View]:
    """The views of tables that belong together; for `groups` see `View`."""
    beside: dict[str, View] = {}
    for name, table in tables.items():
        View(name, table, beside, groups)
    return beside


def text_hashes(texts: Any) -> Numbers:
    """A 64-bit hash of each text of an Arrow array; among a million, two alike are one in ten million."""
    return pd.util.hash_array(texts.to_numpy(zero_copy_only=False), categorize=False)


def numpy(values: Any) -> Numbers:
    """An Arrow array without nulls as a NumPy array."""
    return values.to_numpy(zero_copy_only=False)


def _flat(column: Any) -> Flat:
    return Flat(pc.list_flatten(column), numpy(pc.list_parent_indices(column)))


def split_codes(view: View) -> Numbers:
    """The place of each row's split in `SPLITS`, by which a later one is held out more; -1 for none."""
    splits = view.column("split").combine_chunks()
    return numpy(pc.fill_null(pc.index_in(splits, pa.array(SPLITS)), -1))
