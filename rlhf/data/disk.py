"""What a disk does to files: content is there before its name, and a full or closed disk is told in a line.

A rename alone does not outlast a power cut: the new name may be on the disk while the content behind it is
not. So files and folders are flushed before they get their name, and the folder that holds the name after it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf.data.errors import DataError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_FAULTS = {*_FULL, *_CLOSED, errno.EFBIG, errno.EIO}
_BY_NUMBER = re.compile(r"os error (\d+)")  # how libraries in Rust (safetensors, tokenizers) tell an error
_BY_TORCH = re.compile(r"inline_container|iostream error")  # torch.save loses the reason
_LITTLE = 2**20  # bytes; with less free a library that lost the reason met the end of the disk
_BESIDE = re.compile(r"\.([^/]+)\.\d+\.part|\.writing/")  # a path in which a file is written at first


def flush(path: Path) -> None:
    """Have a file, or a folder with all that is in it, on the disk itself."""
    for part in [*path.rglob("*"), path] if path.is_dir() else [path]:
        if not part.is_symlink():
            _sync(part)


def put_in_place(beside: Path, path: Path) -> None:
    """Give a file or folder its name, so that whoever finds the name finds all of the content.

    Args:
        beside: it, on the same disk.
        path: the name; a file that has it is replaced, a folder must be gone.
    """
    flush(beside)
    os.replace(beside, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot flush a folder
            raise
    finally:
        os.close(handle)


@contextmanager
def faults_of(path: Path, beside: Path, then: str = "run again") -> Iterator[None]:
    """Tell in one line what a disk did to the file or folder that is written in the block.

    Args:
        path: its name in the end, for people; `beside`: where it is written.
        then: what to do once the disk is mended.

    Raises:
        DataError: the disk is full, read-only, closed to this user, or broken.
    """
    try:
        yield
    except Exception as error:
        if _is_of(error, path, beside) and (fault := disk_fault(error, path, beside, then)):
            raise DataError(fault) from error
        raise


def _is_of(error: Exception, path: Path, beside: Path) -> bool:
    """Whether an error may be of what is written here, and not of another file, such as one that is read."""
    if not isinstance(error, OSError) or error.filename is None:
        return True
    named = Path(os.fsdecode(error.filename)).absolute()
    return named.is_relative_to(beside.absolute()) or path.absolute().is_relative_to(named)


def disk_fault(
    error: BaseException, path: Path, beside: Path | None = None, then: str = "run again"
) -> str | None:
    """What a disk did to a file or folder, in one line; None for an error that is not the disk's.

    Args:
        path, beside, then: see `faults_of`; `beside` is None where it is not known how much is written.
    """
    number = _number(error)
    if number is None:
        return None
    place = _BESIDE.sub(lambda match: match[1] or "", str(path))
    room = free_bytes(path)
    free = size_text(room)
    written = f"{size_text(_size(beside))} of it were written, " if beside is not None else ""
    if number in _FULL or (number == 0 and room < _LITTLE):
        return f"{place}: the disk is full: {written}{free} are free; make room on it, and {then}"
    if number in _CLOSED:
        return f"{place} cannot be written: {os.strerror(number)}; let this user write there, and {then}"
    why = os.strerror(number) if number else str(error).splitlines()[0]
    return f"{place} cannot be written: {why} ({written}{free} are free); mend that, and {then}"


def _number(error: BaseException) -> int | None:
    """The system's number of an error of a disk, 0 where a library lost it; None for other errors."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _FAULTS else None
    text = str(error)
    if told := _BY_NUMBER.search(text):
        return int(told[1]) if int(told[1]) in _FAULTS else None
    return 0 if isinstance(error, RuntimeError) and _BY_TORCH.search(text) else None


def free_bytes(path: Path) -> int:
    """What this user may still write to the disk of a path, which need not be there yet."""
    # os.path says no where Path raises: in a folder that this user may not look into
    there = next(folder for folder in (path, *path.absolute().parents) if os.path.exists(folder))
    return shutil.disk_usage(there).free


def size_text(size: int) -> str:
    """A number of bytes as people read it: `2.1 MB`."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
