"""Archives of files (.tar, also packed, and .zip), unpacked once into a temporary folder of this process.

An archive comes from anywhere, so nothing of it is trusted: files and folders only, none outside the folder,
and no more bytes than the disk can take.
"""

from __future__ import annotations

import atexit
import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO

import pyarrow as pa

from rlhf.data.errors import DataError
from rlhf.data.formats.limits import LARGEST, MOST_FILES

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


def is_archive(path: Path | str) -> bool:
    """Whether a path is a file whose name says that it is an archive."""
    return str(path).lower().endswith(ARCHIVES) and Path(path).is_file()


def unpacked(path: Path) -> Path:
    """The folder with an archive's files; it is removed when the process ends.

    Raises:
        DataError: the archive is damaged, holds links or names outside of it, or too much.
    """
    about = path.stat()
    return _unpacked(path, about.st_size, about.st_mtime_ns)


@cache
def _unpacked(path: Path, size: int, changed: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="unpacked-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    room = min(LARGEST.get(), shutil.disk_usage(folder).free // 2)
    total = number = 0
    try:
        with _members(path) as members:
            for name, bytes_, content in members:
                total, number = total + bytes_, number + 1
                if total > room:
                    raise DataError(
                        f"{path}: unpacks to more than {room >> 20} MiB; unpack it where there is room, and "
                        "name the folder"
                    )
                if number > MOST_FILES:
                    raise DataError(
                        f"{path}: holds more than {MOST_FILES:,} files; unpack it and name the folder"
                    )
                inside = PurePosixPath(name)
                if inside.is_absolute() or ".." in inside.parts or "\\" in name or ":" in name[:2]:
                    raise DataError(f"{path}: {name!a} would lie outside of the archive; pack it again")
                target = folder / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    _copy(content, file, bytes_)
    except _BROKEN as error:
        shutil.rmtree(folder, ignore_errors=True)
        why = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: damaged, cut off or locked ({why}); bring the archive again") from None
    except DataError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _copy(content: IO[bytes], file: IO[bytes], size: int) -> None:
    """Copy as many bytes as the archive says that there are.

    Raises:
        EOFError: there are fewer.
    """
    left = size
    while left:
        piece = content.read(min(left, 1 << 20))
        if not piece:
            raise EOFError(f"{left} bytes are missing")
        file.write(piece)
        left -= len(piece)


@contextmanager
def _members(path: Path) -> Iterator[Iterator[tuple[str, int, IO[bytes]]]]:
    """Name, size and content of each file of an archive, to be read in their order."""
    name = path.name.lower()
    if name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            yield _of_zip(path, archive)
    elif name.endswith(".zst"):
        with (
            pa.input_stream(str(path), compression="zstd") as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            yield _of_tar(path, tar)
    else:
        with tarfile.open(path) as tar:
            yield _of_tar(path, tar)


def _of_tar(path: Path, tar: tarfile.TarFile) -> Iterator[tuple[str, int, IO[bytes]]]:
    for member in tar:
        if member.isdir():
            continue
        content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
        if content is None:
            raise DataError(f"{path}: {member.name!a} is a link or a device; pack the files themselves")
        yield member.name, member.size, content


def _of_zip(path: Path, archive: zipfile.ZipFile) -> Iterator[tuple[str, int, IO[bytes]]]:
    for member in archive.infolist():
        if member.is_dir():
            continue
        if (member.external_attr >> 16) & 0o170000 == 0o120000:
            raise DataError(f"{path}: {member.filename!a} is a link; pack the files themselves")
        with archive.open(member) as content:
            yield member.filename, member.file_size, content
