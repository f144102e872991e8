"""What a source brings, and the hash that tells one state of it from another.

Every source brings the same tables (`contracts.TABLES`), any of them possibly without rows, with the texts as
they are: ids, splits and normal form come later, in `prepare`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.data.formats.archives import is_archive
from rlhf.data.formats.parts import parts

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Raw:
    """What a source brings.

    Attributes:
        tables: name -> rows, for each name of `contracts.TABLES`.
        gold: rows of the GOLD contract; only the built-in source has any.
        revision: what tells this state of the source from any other.
        notes: lines that a person should see.
        judgments: rows of the JUDGMENT contract.
        quarantine: rows that could not be read and were put aside, with where they stand and why.
    """

    tables: dict[str, Rows]
    gold: Rows
    revision: str
    notes: tuple[str, ...] = ()
    judgments: Rows = field(default_factory=list)
    quarantine: Rows = field(default_factory=list)


def source_hash(paths: Path | str | Sequence[Path | str]) -> str:
    """SHA-256 (hex) of what paths name: of the bytes of a single file, else of the names and bytes of all.

    Raises:
        DataError: no such file or folder.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    files = [(str(path), file) for path in paths for file in _files(path)]
    if len(files) == 1 and Path(files[0][0]).is_file():
        return _hash(files[0][1])
    digest = hashlib.sha256()
    for _, file in files:
        digest.update(f"{file.name}\0{_hash(file)}\n".encode())
    return digest.hexdigest()


def _files(path: Path | str) -> list[Path]:
    """The files whose bytes are the data; an archive is one, whatever is in it."""
    if is_archive(path):
        return [Path(path)]
    return [file for part in parts(path) for file in part.files]


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def marked(rows: Rows, source: str) -> Rows:
    """The rows with their source; a source that a row names itself is kept."""
    return [{**row, "source": row.get("source") or source} for row in rows]
