"""The files of a part block by block: in columns where all records of a block are plain, else as records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from rlhf.data.formats.cells import turn_converters
from rlhf.data.formats.json_blocks import Block, blocks, columns_of
from rlhf.data.formats.parts import Part
from rlhf.data.formats.records import JSON_LINES, block_records, format_of, records
from rlhf.data.formats.text_files import Fault
from rlhf.data.layouts.in_columns import in_columns, schema_of
from rlhf.data.layouts.layout import Layout, Options, Record
from rlhf.data.part_records import SAMPLE
from rlhf.data.table import ahead

_IN_VAIN = 3  # blocks of a part that are not plain, behind which none is tried


class Portion(NamedTuple):
    """Rows of a table that are Arrow already."""

    table: str
    batch: pa.RecordBatch


class BlockReading:
    """How a part is read block by block.

    Args:
        part: its files.
        layout: of its records.
        columns: those of its first records, name -> kind.
        options: what the user says of them.
    """

    def __init__(self, part: Part, layout: Layout, columns: Mapping[str, str], options: Options) -> None:
        self._part, self._layout, self._known = part, layout.name, columns.keys()
        json = part.archive is None and all(format_of(file)[1] in JSON_LINES for file in part.files)
        self._schema = schema_of(layout, columns, options) if json else None

    @property
    def possible(self) -> bool:
        """Whether records of this layout and these files can be read so."""
        return self._schema is not None

    def pieces(
        self, one_by_one: Callable[[Path], Iterator[Record]], fault_of: Callable[[Path], Fault | None]
    ) -> Iterator[Portion | Iterator[Record]]:
        """The rows of all files in order, as portions or as records that are to be read one by one.

        Args:
            one_by_one: gives the records of a whole file.
            fault_of: gives what gets the rows of a file that cannot be read.
        """
        in_vain = 0
        for file in self._part.files:
            parts = blocks(file)
            if parts is None or (file != self._part.files[0] and _spells_turns(file)):
                yield one_by_one(file)
                continue
            for block, portion in ahead(partial(self._tried, block) for block in parts):
                if portion is not None:
                    yield portion
                    continue
                in_vain += 1
                if in_vain == _IN_VAIN:
                    self._schema = None
                yield block_records(file, block, fault_of(file))

    def _tried(self, block: Block) -> tuple[Block, Portion | None]:
        batch = None if self._schema is None else columns_of(block, self._schema)
        if batch is None or not self._known >= set(batch.schema.names):
            return block, None
        told = in_columns(self._layout, batch)
        return block, None if told is None else Portion(*told)


def _spells_turns(file: Path) -> bool:
    """Whether the first records of a shard have texts that spell conversations, as those of the first shard
    have not; then they are read as such."""
    sample = islice(records(file, fault=lambda place, why, value: None), SAMPLE)
    return bool(turn_converters([record.columns for record in sample]))
