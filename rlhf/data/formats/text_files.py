"""Text files that people bring: UTF-8, or the line on which they are not."""

from __future__ import annotations

from pathlib import Path

from rlhf.data.errors import DataError


def read_text(path: Path) -> str:
    """A whole file as text; a byte order mark is dropped.

    Raises:
        DataError: the file is not UTF-8; the message names the line of the first bad byte.
    """
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}: row {line}: not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from None
