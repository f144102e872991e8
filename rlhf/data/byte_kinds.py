"""Which texts of a column hold bytes of some kind: one look at the column's buffer, for all at once.

A pattern costs some nanoseconds a byte, a comparison of bytes a tenth of one, and most texts hold nothing
that the pattern could match: no digit, no `@`, no control character. Who asks first which texts hold such a
byte runs the pattern over few of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def holding(texts: pa.Array, test: Callable[[Bytes], Mask]) -> Mask:
    """Which texts hold a byte that passes a test; null holds none.

    Args:
        texts: a column of texts or bytes, [texts].
        test: of bytes, one by one.
    """
    held = np.zeros(len(texts), bool)
    offsets, content = raw(texts)
    passed = test(content)
    if passed.any():
        filled = np.flatnonzero(np.diff(offsets))  # between two of them stand empty texts alone
        held[filled] = np.logical_or.reduceat(passed, offsets[filled])
        if texts.null_count:
            held[texts.is_null().to_numpy(zero_copy_only=False)] = False
    return held


def not_ascii(content: Bytes) -> Mask:
    """Bytes of characters that ASCII lacks."""
    return content >= 0x80


def raw(texts: pa.Array) -> tuple[np.ndarray[Any, np.dtype[np.int32]], Bytes]:
    """Where each text of a column begins in the bytes of all, [texts + 1], and these bytes."""
    _, ends, content = texts.buffers()
    if not len(texts) or content is None:
        return np.zeros(len(texts) + 1, np.int32), np.empty(0, np.uint8)
    offsets = np.frombuffer(ends, np.int32, len(texts) + 1, texts.offset * 4)
    begin, end = int(offsets[0]), int(offsets[-1])
    return offsets - begin, np.frombuffer(content, np.uint8, end - begin, begin)
