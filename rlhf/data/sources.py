"""What a source brings, and the hash that tells one state of it from another.

Every source brings the same tables (`contracts.TABLES`), any of them possibly without rows, with the texts as
they are: ids, splits and normal form come later, in `prepare`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.data.contracts import TABLES
from rlhf.data.errors import DataError

Rows = list[dict[str, Any]]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Raw:
    """What a source brings.

    Attributes:
        tables: name -> rows, for each name of `contracts.TABLES`.
        gold: rows of the GOLD contract; only the built-in source has any.
        revision: what tells this state of the source from any other.
        notes: lines that a person should see.
    """

    tables: dict[str, Rows]
    gold: Rows
    revision: str
    notes: tuple[str, ...] = ()


def source_hash(path: Path | str) -> str:
    """SHA-256 (hex) of a source: of the bytes of a file, or of names and bytes of a folder's tables.

    Raises:
        DataError: no such file or folder.
    """
    path = Path(path)
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    digest = hashlib.sha256()
    for name in TABLES:
        file = table_file(path, name)
        if file:
            digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def marked(rows: Rows, source: str) -> Rows:
    """The rows with their source; a source that a row names itself is kept."""
    return [{**row, "source": row.get("source") or source} for row in rows]


def table_file(folder: Path, name: str) -> Path | None:
    """The file of a folder that holds a table; None where there is none.

    Raises:
        DataError: two files hold it.
    """
    matches = [folder / f"{name}{suffix}" for suffix in SUFFIXES if (folder / f"{name}{suffix}").is_file()]
    if len(matches) > 1:
        raise DataError(f"{folder}: both {matches[0].name} and {matches[1].name}; keep one of them")
    return matches[0] if matches else None
