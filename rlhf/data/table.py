"""Tables that stages write and read: Parquet with the schema of a contract, a few thousand rows in hand.

A file is read a group of rows at a time, so that memory does not grow with it, and a stage that asks for one
column reads that column only. Uncompressed Arrow could be mapped into memory without decoding, but it is more
than twice the size on disk and in DVC's cache. What is mapped counts as the process's memory once it is read,
so Parquet is not mapped either: of a million comparisons that took 829 MB in place of 373.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rlhf.data.columns import column_of, rows_of
from rlhf.data.contracts import Contract, exact
from rlhf.data.errors import DataError
from rlhf.data.files import damaged_output, missing_output, written_beside

IN_HAND = 1024  # rows that are dicts at one time
Read = TypeVar("Read")
_GROUP_ROWS, _GROUP_BYTES = 4096, 4 * 2**20  # what a group holds at most, before compression
# Texts that differ in every row gain nothing by a dictionary, and building it takes longer than writing them.
_FEW_VALUES = [
    "labeler_id",
    "labeler_group",
    "policy",
    "preferred",
    "judge_id",
    "judge_kind",
    "topic",
    "writer_id",
    "guideline_version",
    "split",
    "source",
    "policies.list.element",
    "note",
    "messages.list.element.role",
]


class Table(Sequence[dict[str, Any]]):
    """The rows of a file that a `TableWriter` wrote, or some of them: a sequence of dicts.

        >>> train = read_table("demonstrations.parquet", DEMONSTRATION).where("split", "train")
        >>> len(train), train[0]["prompt"], [row["completion"] for row in train]

    Reading in order is fast; each jump to another group of rows decodes that group.

    Args:
        path: the file.
        contract: what its rows are.

    Raises:
        DataError: no such file, not Parquet, or a table of another contract.
    """

    def __init__(self, path: Path | str, contract: Contract) -> None:
        self.path, self.contract = Path(path), contract
        self._file = _opened(self.path, contract)
        counts = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._ends = np.cumsum([0, *counts])  # where groups begin, and the number of rows
        self._numbers: np.ndarray | None = None  # of the rows in the file; None for all of them
        self._last: tuple[int, pa.RecordBatch] | None = None
        self._lock = threading.Lock()  # of the file, which is read ahead

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._numbers is None else len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, place: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(place, slice):
            return list(self.take(np.arange(len(self))[place]))
        if not -len(self) <= place < len(self):
            raise IndexError(f"{self.path} has {len(self)} rows")
        number = place % len(self) if self._numbers is None else int(self._numbers[place])
        group = int(np.searchsorted(self._ends, number, side="right")) - 1
        if self._last is None or self._last[0] != group:
            self._last = group, self._group(group, self.contract.schema.names)
        return rows_of(self._last[1].slice(number - int(self._ends[group]), 1))[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.batches():
            for start in range(0, batch.num_rows, IN_HAND):
                yield from rows_of(batch.slice(start, IN_HAND))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Table {self.path}: {len(self)} {self.contract.name}s>"

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows as Arrow, in order, a group at a time.

        Args:
            columns: the columns that are read; None for all.
        """
        names = list(columns or self.contract.schema.names)
        yield from ahead(partial(self._part, group, rows, names) for group, rows in self._parts())

    def _parts(self) -> Iterator[tuple[int, np.ndarray | None]]:
        """The groups in the order of the rows, and which of their rows; None for all."""
        if self._numbers is None:
            yield from ((group, None) for group in range(len(self._ends) - 1))
            return
        groups = np.searchsorted(self._ends, self._numbers, side="right") - 1
        runs = np.split(np.arange(len(groups)), np.flatnonzero(np.diff(groups)) + 1)
        for run in (run for run in runs if len(run)):
            group = int(groups[run[0]])
            yield group, self._numbers[run] - self._ends[group]

    def _part(self, group: int, rows: np.ndarray | None, names: Sequence[str]) -> pa.RecordBatch:
        whole = self._group(group, names)
        return whole if rows is None else whole.take(pa.array(rows))

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all rows; a conversation's is large, `batches` reads it a part at a time."""
        kind = self.contract.schema.field(name).type
        return pa.chunked_array([batch.column(0) for batch in self.batches([name])], type=kind)

    def rows(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """All rows as dicts with these columns alone, for what must have them in memory."""
        return [row for batch in self.batches(columns) for row in rows_of(batch)]

    def take(self, places: Sequence[int] | np.ndarray) -> Table:
        """The rows at these places, in this order, as a table of their own; nothing is read yet."""
        taken = Table.__new__(Table)
        taken.__dict__.update(self.__dict__)
        places = np.asarray(places, dtype=np.int64)
        taken._numbers = places if self._numbers is None else self._numbers[places]
        return taken

    def where(self, column: str, values: str | Collection[str]) -> Table:
        """The rows whose column is this text, or one of these, as a table of their own."""
        wanted = pa.array([values] if isinstance(values, str) else sorted(values), pa.string())
        held = pc.is_in(self.column(column), value_set=wanted)
        return self.take(np.flatnonzero(held.to_numpy()))

    def _group(self, group: int, names: Sequence[str]) -> pa.RecordBatch:
        present = self._file.schema_arrow.names
        try:
            with self._lock:
                read = self._file.read_row_group(group, [name for name in names if name in present])
        except (pa.ArrowException, OSError) as error:
            raise damaged_output(self.path, error) from None
        schema = self.contract.schema
        columns = [
            # A run from before there was such a column wrote it.
            _whole(read.column(name)) if name in present else pa.nulls(read.num_rows, schema.field(name).type)
            for name in names
        ]
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema([schema.field(name) for name in names]))


def ahead(reads: Iterable[Callable[[], Read]]) -> Iterator[Read]:
    """What each call returns, in order; each is made while the one before is worked on. Decoding a group of
    rows needs no Python, so a second core does it."""
    with ThreadPoolExecutor(1) as thread:
        before: Future[Read] | None = None
        for read in reads:
            future = thread.submit(read)
            if before is not None:
                yield before.result()
            before = future
        if before is not None:
            yield before.result()


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _opened(path: Path, contract: Contract) -> pq.ParquetFile:
    if not path.exists():
        raise missing_output(path)
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise damaged_output(path, f"not a Parquet file: {error}") from None
    names, own = set(file.schema_arrow.names), set(contract.schema.names)
    if names - own or not set(contract.required) <= names:
        raise DataError(f"{path}: not a table of {contract.name}s: columns differ in {sorted(names ^ own)}")
    return file


def read_table(path: Path | str, contract: Contract) -> Table:
    """The table that a `TableWriter` wrote.

    Raises:
        DataError: no such file, not Parquet, or a table of another contract.
    """
    return Table(path, contract)


class TableWriter:
    """Writes a table row by row or batch by batch: beside, then renamed, so that a killed writer leaves
    nothing half-written.

        >>> with TableWriter("prompts.parquet", PROMPT) as writer:
        ...     writer.write(rows)

    Equal rows make equal files, in whatever portions `write` gets them.

    Args:
        path: the file.
        contract: what its rows are; a column that a row lacks is null.
    """

    def __init__(self, path: Path | str, contract: Contract) -> None:
        self.path, self.contract = Path(path), contract
        self.rows = 0  # written so far
        self._place = written_beside(path)
        self._waiting: list[dict[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []
        self._size = (0, 0)  # rows and bytes of the batches
        self._file: pq.ParquetWriter | None = None
        self._behind = ThreadPoolExecutor(1)  # compresses a group while the next is made
        self._writing: Future[None] | None = None

    def __enter__(self) -> TableWriter:
        beside = self._place.__enter__()
        few = [name for name in _FEW_VALUES if name.split(".")[0] in self.contract.schema.names]
        self._file = pq.ParquetWriter(beside, self.contract.schema, compression="zstd", use_dictionary=few)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        try:
            if kind is None:
                self._convert(len(self._waiting))
                self._flush()
            self._behind.shutdown()
            if kind is None and self._writing is not None:
                self._writing.result()
            self._file.close()
        except BaseException as failure:
            self._place.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._place.__exit__(kind, error, trace)

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write rows.

        Raises:
            DataError: a value is of the wrong type; the line names the row.
        """
        for row in rows:
            self._waiting.append(row)
            if len(self._waiting) == IN_HAND:
                self._convert(IN_HAND)

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Write rows that are Arrow already; columns that the batch lacks are null."""
        self._convert(len(self._waiting))
        schema = self.contract.schema
        columns = [
            batch.column(field.name)
            if field.name in batch.schema.names
            else pa.nulls(batch.num_rows, field.type)
            for field in schema
        ]
        whole = pa.RecordBatch.from_arrays(columns, schema=schema)
        for start in range(0, whole.num_rows, IN_HAND):
            self._add(whole.slice(start, IN_HAND))

    def _convert(self, count: int) -> None:
        rows, self._waiting = self._waiting[:count], self._waiting[count:]
        if not rows:
            return
        columns: list[pa.Array] = []
        present = set().union(*rows)
        for field in self.contract.schema:
            if field.name not in present:
                columns.append(pa.nulls(len(rows), field.type))
                continue
            values = [row.get(field.name) for row in rows]
            try:
                columns.append(column_of(values, field.type))
            except ValueError:
                self._refuse(field, values)
        self._add(pa.RecordBatch.from_arrays(columns, schema=self.contract.schema))

    def _refuse(self, field: pa.Field, values: list[Any]) -> None:
        for number, value in enumerate(values, start=self.rows + 1):
            try:
                exact(value, field.type)
            except ValueError:
                raise DataError(
                    f"{self.path}: {self.contract.name} {number} has a value of the wrong type: "
                    f"{field.name} {ascii(value)[:60]} is no {field.type}"
                ) from None

    def _add(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        rows, size = self._size[0] + batch.num_rows, self._size[1] + batch.nbytes
        self._batches.append(batch)
        self._size = rows, size
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._batches:
            assert self._file is not None
            if self._writing is not None:
                self._writing.result()
            group = pa.Table.from_batches(self._batches)
            self._writing = self._behind.submit(self._file.write_table, group, group.num_rows)
            self._batches, self._size = [], (0, 0)


def write_table(path: Path | str, contract: Contract, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as a table.

    Raises:
        DataError: a value is of the wrong type; the line names the row.
    """
    with TableWriter(path, contract) as writer:
        writer.write(rows)
