"""JSON lines a block at a time: as columns where every row is plain, else as lines.

Arrow reads JSON many times as fast as Python does, but passes over what `json_files` refuses (NaN, two
objects on a line), and says of an error neither row nor remedy. So a block in which anything is out of the
ordinary is read again row by row, by the reader of `json_files`, and its errors are what they always were.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from rlhf.data.formats.compressed import opened
from rlhf.data.formats.json_files import DEEPEST
from rlhf.data.formats.text_files import is_utf16

BLOCK = 4 << 20  # bytes; a longer line makes a longer block
_WHOLE = 2.0**53  # whole numbers up to this are floats without loss


@dataclass(frozen=True)
class Block:
    """Some lines of a file.

    Attributes:
        content: their bytes; the last may lack its line feed at the end of the file.
        first: the number of the first, from 1.
    """

    content: bytes
    first: int


def blocks(path: Path) -> Iterator[Block] | None:
    """A file in blocks of whole lines; None where it is UTF-16, whose lines are no lines of bytes.

    Raises:
        DataError: the file is empty, or what is packed in it is damaged or cut off.
    """
    with opened(path) as file:
        if is_utf16(file, path):
            return None
    return _blocks(path)


def _blocks(path: Path) -> Iterator[Block]:
    first, rest = 1, b""
    with opened(path) as file:
        while read := file.read(BLOCK):
            end = read.rfind(b"\n") + 1
            if end:
                content = (rest + read[:end]).removeprefix(codecs.BOM_UTF8 if first == 1 else b"")
                yield Block(content, first)
                first += content.count(b"\n")
                rest = read[end:]
            else:
                rest += read
    if rest:
        yield Block(rest.removeprefix(codecs.BOM_UTF8 if first == 1 else b""), first)


def columns_of(block: Block, schema: pa.Schema) -> pa.RecordBatch | None:
    """The columns of a block, a row a line.

    Args:
        block: of the file.
        schema: the types of the columns that are read; others get the types that their values have.

    Returns:
        None where a line is no plain object, or a value is not of its column's very type.
    """
    lines = _lone_objects(block.content)
    if lines is None:
        return None
    options = pj.ReadOptions(use_threads=False, block_size=max(len(block.content), 1024))
    parse = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer")
    try:
        table = pj.read_json(pa.BufferReader(block.content), options, parse)
        table.validate(full=True)  # of texts that they are UTF-8
    except (pa.ArrowException, UnicodeError):
        return None
    if table.num_rows != lines or not all(map(_exact, table.columns)):
        return None
    [batch] = table.combine_chunks().to_batches()
    return batch


def _lone_objects(content: bytes) -> int | None:
    """How many lines there are, where each begins with `{` and ends with `}`: then no object spans two of
    them, because between objects that lie in something stands a comma."""
    bytes_ = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(bytes_ == 10)
    if not len(ends) or ends[-1] != len(bytes_) - 1:
        ends = np.append(ends, len(bytes_))
    starts = np.concatenate([[0], ends[:-1] + 1])
    last = ends - 1
    last = last - (bytes_[last] == 13)  # a carriage return
    plain = (starts < ends) & (bytes_[np.minimum(starts, len(bytes_) - 1)] == 123) & (bytes_[last] == 125)
    if not plain.all():
        return None
    # A line that opens so many lists and objects may be one that Python's reader refuses as too deep. No line
    # does where all of them together open few more than one each.
    opening = content.count(b"[") + content.count(b"{")
    if opening >= len(ends) + DEEPEST:
        opens = (bytes_ == 91) | (bytes_ == 123)
        if (np.add.reduceat(opens, starts, dtype=np.int64) > DEEPEST).any():
            return None
    return len(ends)


def _exact(column: pa.ChunkedArray) -> bool:
    """Whether Python would have read the same numbers: Arrow takes NaN, and rounds long whole numbers."""
    kind = column.type
    if pa.types.is_list(kind):
        return _exact(pc.list_flatten(column))
    if pa.types.is_struct(kind):
        return all(map(_exact, column.flatten()))
    if not pa.types.is_floating(kind):
        return True
    values = column.drop_null().to_numpy()
    return bool((np.abs(values) < _WHOLE).all() and not (np.signbit(values) & (values == 0)).any())
