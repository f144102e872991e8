"""How much a packed file may unpack to: a few kilobytes can hold more than any disk or memory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from rlhf.data.errors import DataError

LARGEST: ContextVar[int] = ContextVar("LARGEST", default=20 << 30)  # bytes
MOST_FILES = 100_000  # of an archive


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Let files unpack to this many bytes inside the block: what strangers send is kept in memory."""
    before = LARGEST.set(size)
    try:
        yield
    finally:
        LARGEST.reset(before)


def too_much(path: Path, size: int) -> DataError:
    """The error for a file that unpacks to more than `size` bytes."""
    return DataError(f"{path}: unpacks to more than {size >> 20} MiB; bring it unpacked, or in parts")


class Bounded(io.RawIOBase):
    """A packed file's bytes, up to `LARGEST`.

    Args:
        path: the file, for the error.
        content: its bytes, unpacked as they are read.
    """

    def __init__(self, path: Path, content: BinaryIO) -> None:
        self.path, self.content, self.most = path, content, LARGEST.get()
        self.left = self.most

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read some bytes.

        Raises:
            DataError: they are more than allowed.
        """
        piece = self.content.read(len(buffer))
        self.left -= len(piece)
        if self.left < 0:
            raise too_much(self.path, self.most)
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Close the file as well."""
        self.content.close()
        super().close()
