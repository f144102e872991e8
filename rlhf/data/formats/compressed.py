"""Files as bytes, unpacked while they are read: plain, gzip (.gz) or Zstandard (.zst)."""

from __future__ import annotations

import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from rlhf.data.errors import DataError
from rlhf.data.formats.limits import Bounded

COMPRESSIONS = (".gz", ".zst")
_TRY = {".gz": "gzip -t", ".zst": "zstd -t"}


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes from its beginning, unpacked; what is damaged or cut off is seen where it is read.

    Raises:
        DataError: the file is empty, or what is packed in it is damaged, cut off, or more than
            `limits.LARGEST`.
    """
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    packing = path.suffix.lower()
    if packing not in COMPRESSIONS:
        with path.open("rb", buffering=1 << 20) as file:
            yield file
        return
    try:
        with _unpacked(path, packing) as file:
            yield file
    except (EOFError, OSError, zlib.error) as error:  # BadGzipFile and Arrow's errors of zst are OSErrors
        raise DataError(
            f"{path}: what is packed in it is damaged or cut off ({error}); `{_TRY[packing]}` tries it, "
            "bring the file again"
        ) from None


def _unpacked(path: Path, packing: str) -> BinaryIO:
    packed = gzip.GzipFile(path) if packing == ".gz" else pa.input_stream(str(path), compression="zstd")
    return cast(BinaryIO, io.BufferedReader(Bounded(path, cast(BinaryIO, packed)), 1 << 20))


@contextmanager
def seekable(path: Path) -> Iterator[Path | BinaryIO]:
    """A file in which a reader may jump about: the path itself, or its content unpacked to a file without a
    name, so that memory does not grow with it.

    Raises:
        DataError: as `opened` does.
    """
    if path.suffix.lower() not in COMPRESSIONS:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
        yield path
        return
    with tempfile.TemporaryFile() as whole:
        with opened(path) as packed:
            shutil.copyfileobj(packed, whole, 1 << 20)
        whole.seek(0)
        yield cast(BinaryIO, whole)
