"""Text files that people bring, a line at a time: UTF-8, UTF-16 that says so, or where they are neither."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rlhf.data.errors import DataError
from rlhf.data.formats.compressed import COMPRESSIONS, opened

# What a reader does about a row that cannot be read: `fault("row 3", why, what stands there)` raises, or puts
# the row aside.
Fault = Callable[[str, str, Any], None]
CHUNK = 1 << 20
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# The first bytes of files that are no text, and what to do about each.
_MAGIC = {
    b"\x1f\x8b": "is packed by gzip; let its name end in .gz",
    b"\x28\xb5\x2f\xfd": "is packed by Zstandard; let its name end in .zst",
    b"PK\x03\x04": "is a ZIP archive or a spreadsheet; unpack it, or save it as CSV UTF-8",
    b"PAR1": "is Parquet; let its name end in .parquet",
    b"ARROW1": "is Arrow; let its name end in .arrow",
    b"\xd0\xcf\x11\xe0": "is a spreadsheet of old; save it as CSV UTF-8",
}


def text_lines(file: BinaryIO, path: Path, fault: Fault | None = None) -> Iterator[tuple[int, str]]:
    """The lines of a text and their numbers, from 1, each with the line break that it ends in.

    Lines end in a line feed and nothing else: a JSON text may hold U+2028, and a CSV cell a carriage return.

    Args:
        file: its bytes.
        path: for messages.
        fault: gets a line that is not UTF-8; None refuses it.

    Raises:
        DataError: the file is no text, or a line is not UTF-8.
    """
    if _checked_head(file, path).startswith(_UTF16):
        yield from _utf16(file, path)
        return
    yield from decoded_lines(file, 1, path, fault)


def is_utf16(file: BinaryIO, path: Path) -> bool:
    """Whether a text says at its beginning that it is UTF-16.

    Raises:
        DataError: the file is no text.
    """
    return _checked_head(file, path).startswith(_UTF16)


def decoded_lines(
    lines: Iterable[bytes], first: int, path: Path, fault: Fault | None = None
) -> Iterator[tuple[int, str]]:
    """Lines as texts, with their numbers; see `text_lines`.

    Args:
        lines: their bytes.
        first: the number of the first.
        path, fault: as for `text_lines`.
    """
    for number, raw in enumerate(lines, start=first):
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        try:
            yield number, raw.decode()
        except UnicodeDecodeError as error:
            why = f"not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
            if fault is None:
                raise DataError(f"{path}: line {number}: {why} (a spreadsheet's: CSV UTF-8)") from None
            fault(f"row {number}", why, raw.decode(errors="backslashreplace"))


def _checked_head(file: BinaryIO, path: Path) -> bytes:
    head: bytes = file.peek(8)[:8]  # type: ignore[attr-defined]
    for magic, mend in _MAGIC.items():
        if head.startswith(magic):
            if path.suffix.lower() in COMPRESSIONS:
                raise DataError(f"{path}: packed twice, or something else is packed in it; unpack it once")
            raise DataError(f"{path}: {mend}")
    if b"\0" in head and not head.startswith(_UTF16):
        raise DataError(
            f"{path}: not UTF-8, but UTF-16 without a byte order mark, or no text; save it as UTF-8"
        )
    return head


def text_chunks(file: BinaryIO, path: Path) -> Iterator[str]:
    """A text in pieces of about `CHUNK` characters, without regard to lines; see `text_lines`.

    Raises:
        DataError: the file is no text, or it is not UTF-8; the line of the first bad byte is named.
    """
    encoding = "utf-16" if _checked_head(file, path).startswith(_UTF16) else "utf-8-sig"
    decoder = codecs.getincrementaldecoder(encoding)()
    lines = 1
    raw = b"..."
    while raw:
        raw = file.read(CHUNK)
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            line = lines + error.object[: error.start].count(b"\n")
            raise DataError(
                f"{path}: line {line}: not UTF-8 (byte 0x{error.object[error.start]:02x}); save the file as "
                "UTF-8"
            ) from None
        lines += text.count("\n")
        if text:
            yield text


def _utf16(file: BinaryIO, path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        for number, line in enumerate(io.TextIOWrapper(file, encoding="utf-16", newline="\n"), start=1):
            yield number, line
    except UnicodeError:
        raise DataError(
            f"{path}: not UTF-16 behind line {number}, which its first two bytes promise; save it as UTF-8"
        ) from None


def read_text(path: Path) -> str:
    """A whole file as text; a byte order mark is dropped.

    Raises:
        DataError: the file is no text, or not UTF-8; the message names the line of the first bad byte.
    """
    with opened(path) as file:
        return "".join(line for _, line in text_lines(file, path))
