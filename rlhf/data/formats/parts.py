"""What a path means: the parts of a source, each a table in one file or in several shards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from rlhf.data.contracts import TABLES
from rlhf.data.errors import DataError
from rlhf.data.formats.records import SUFFIXES, format_of

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
# The names that files give to splits, and what the contracts call them.
_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}


@dataclass(frozen=True)
class Part:
    """Files that are one table.

    Attributes:
        name: of the table, without shard and suffix: `demonstrations`, `train`.
        files: its shards, in order.
        table: the table that the name says, None where it says none.
        split: the split that the name says, None where it says none.
    """

    name: str
    files: tuple[Path, ...]
    table: str | None
    split: str | None


def parts(path: Path | str) -> list[Part]:
    """The parts that a path names: a file, a folder of files, or a pattern such as `shards/*.parquet`.

    Raises:
        DataError: nothing is there, or one table lies there in two types of file.
    """
    files = sorted(_files(str(path)))
    if not files:
        raise DataError(f"{path}: no file of a known type; it may end in {', '.join(SUFFIXES)}")
    shards: dict[tuple[Path, str], dict[str, list[Path]]] = {}
    for file in files:
        stem, suffix = format_of(file)
        name = _SHARD.sub("", stem)
        shards.setdefault((file.parent, name), {}).setdefault(suffix, []).append(file)
    found_parts = []
    for (folder, name), by_type in shards.items():
        if len(by_type) > 1:
            first, second, *_ = (together[0] for together in by_type.values())
            raise DataError(f"{folder}: both {first.name} and {second.name}; keep one of them")
        together = tuple(next(iter(by_type.values())))
        found_parts.append(Part(name, together, _table(name), _split(name) or _split(folder.name)))
    return found_parts


def _files(path: str) -> Iterator[Path]:
    if has_magic(path) and not Path(path).exists():
        names = [Path(name) for name in glob(path, recursive=True)]
    elif Path(path).is_dir():
        names = [name for name in Path(path).rglob("*") if not name.name.startswith(".")]
        names = [name for name in names if format_of(name)[1] in SUFFIXES]
    elif Path(path).is_file():
        names = [Path(path)]
    else:
        raise DataError(f"{path}: no such file or folder")
    yield from (name for name in names if name.is_file())


def _table(name: str) -> str | None:
    return next(
        (table for table in (*TABLES, "judgments") if table in re.split(r"[^a-z]+", name.lower())), None
    )


def _split(name: str) -> str | None:
    words = re.split(r"[^a-z]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)
