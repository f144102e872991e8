"""What a path means: the parts of a source, each a table in one file or in several shards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from glob import escape, glob, has_magic
from pathlib import Path

from rlhf.data.contracts import TABLES
from rlhf.data.errors import DataError
from rlhf.data.formats.archives import ARCHIVES, is_archive, unpacked
from rlhf.data.formats.compressed import COMPRESSIONS
from rlhf.data.formats.records import SUFFIXES, format_of
from rlhf.data.formats.saved_datasets import Saved, saved_in
from rlhf.data.formats.split_names import split_named

_OF = re.compile(r"-(\d+)-of-(\d+)$")  # `train-00000-of-00002`
_NUMBERED = re.compile(r"(?:^|[-_. ])(\d+)$")  # `part-0001`, `0001`
# Files that lie beside data and are none: what people and programs write about it.
_ABOUT = re.compile(
    r"(readme|licen[cs]e|source|citation|changelog|notice)\b.*|.*\.(md|rst|bib|lock)"
    r"|(manifest|dataset_infos?|dataset_dict|state|config)\.json",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Part:
    """Files that are one table.

    Attributes:
        name: of the table, without shard and suffix: `demonstrations`, `train`.
        files: its shards, in order.
        table: the table that the name says, None where it says none.
        split: the split that the name says, None where it says none.
        said: the name that says the split, None where none does.
        archive: the archive that the files are of, None where they lie there themselves.
        folder: where it was unpacked.
    """

    name: str
    files: tuple[Path, ...]
    table: str | None
    split: str | None
    said: str | None = None
    archive: Path | None = None
    folder: Path | None = None

    def told(self, line: str) -> str:
        """A line with the paths that a user knows: of an archive, not of where it was unpacked."""
        return line.replace(str(self.folder), str(self.archive)) if self.archive else line

    @property
    def place(self) -> str:
        """Its first file, as a user knows it."""
        return self.told(str(self.files[0]))


def parts(path: Path | str, say: Callable[[str], None] = lambda line: None) -> list[Part]:
    """The parts that a path names: a file, a folder of files, or a pattern such as `shards/*.parquet`.

    Args:
        path: what a user names.
        say: gets what a person should see, such as files that are not read.

    Raises:
        DataError: nothing is there, a shard is missing, or one table lies there in two types of file.
    """
    place = Path(path).expanduser()
    if is_archive(place):
        folder = unpacked(place)
        try:
            inside = parts(folder, lambda line: say(line.replace(str(folder), str(place))))
        except DataError as error:
            raise DataError(str(error).replace(str(folder), str(place))) from None
        return [replace(part, archive=place, folder=folder) for part in inside]
    root, files, whole = _named(str(path), say)
    if len(files) == 1 and files == [place] and (shard := _OF.search(format_of(place)[0])):
        # Named alone, a shard is meant alone; in a folder, it means that the others are lost.
        say(f"{path}: shard {int(shard[1])} of {int(shard[2])} (counted from 0); the others are not read")
        name = format_of(place)[0][: shard.start()]
        return [Part(name, (place,), _table(name), split_named(name), split_named(name) and name)]
    told = [_saved(saved.folder, saved.files, saved.split) for saved in whole]
    told += _grouped(root, files)
    if not told:
        raise DataError(f"{path}: no file of a known type; it may end in {', '.join(SUFFIXES)}")
    return told


def _named(path: str, say: Callable[[str], None]) -> tuple[Path, list[Path], list[Saved]]:
    """The folder from which names count, the files, and the data sets that `save_to_disk` wrote."""
    place = Path(path).expanduser()
    if place.is_file():
        _known(place)
        return place.parent, [place], []
    if place.is_dir():
        whole = list(saved_in(place))
        inside = [saved.folder for saved in whole]
        files, others = [], []
        for file in sorted(place.rglob("*")):
            name = file.relative_to(place)
            if any(part.startswith((".", "_")) for part in name.parts) or _ABOUT.fullmatch(file.name):
                continue
            if any(file.is_relative_to(folder) for folder in inside) or not file.is_file():
                continue
            stem, kind = format_of(file)
            if stem == "labels" and (file.parent / "manifest.json").is_file():
                say(f"{file}: not read: an export of the label app; what trains is in the tables beside it")
                continue
            if kind in SUFFIXES and kind != ".txt":
                files.append(file)
            else:
                others.append(name)
        if others:
            shown = ", ".join(map(str, others[:3])) + (f" and {len(others) - 3} more" if others[3:] else "")
            say(f"{path}: not read, because of their type: {shown}")
        return place, files, whole
    if not has_magic(path):
        raise DataError(f"{path}: no such file or folder")
    matches = [Path(name) for name in sorted(glob(str(place), recursive=True))]
    whole = [saved for folder in matches if folder.is_dir() for saved in saved_in(folder)]
    files = [file for file in matches if file.is_file() and not _ABOUT.fullmatch(file.name)]
    inside = [saved.folder for saved in whole]
    files = [file for file in files if not any(file.is_relative_to(folder) for folder in inside)]
    if not matches:
        raise DataError(f"{path}: no file fits this pattern")
    for file in files:
        _known(file)
    fixed = place.parts
    fixed = fixed[: next(n for n, part in enumerate(fixed) if has_magic(part))]
    return Path(*fixed), files, whole


def _known(file: Path) -> None:
    kind = format_of(file)[1]
    if kind in SUFFIXES:
        return
    name = file.name.lower()
    if name.endswith(ARCHIVES):
        mend = "an archive among other files; name it alone, or in ingest.sources"
    elif name.endswith((".xlsx", ".xls", ".ods")):
        mend = "a spreadsheet; save it as CSV UTF-8, a file for each sheet"
    elif name.endswith((".bz2", ".xz", ".7z", ".lz4")):
        mend = f"packed in a way that is not read; unpack it, or pack it as {' or '.join(COMPRESSIONS)}"
    elif name.endswith(COMPRESSIONS):
        mend = f"its name does not say what is packed in it; let it end in .jsonl{file.suffix} or the like"
    elif name.endswith((".pkl", ".pickle", ".pt", ".bin", ".npy", ".npz")):
        mend = "can hold code and is not opened; write it as Parquet or JSON lines where you trust it"
    else:
        kind = f"unknown file type {file.suffix!r}" if file.suffix else "its name has no file type"
        raise DataError(f"{file}: {kind}; use {', '.join(SUFFIXES)}")
    raise DataError(f"{file}: {mend}")


def _grouped(root: Path, files: Iterable[Path]) -> list[Part]:
    """Files as parts: the shards of one table together, in the order of their numbers."""
    groups: dict[tuple[Path, str], dict[str, list[tuple[int, Path]]]] = {}
    totals: dict[tuple[Path, str], int] = {}
    for file in files:
        stem, _ = format_of(file)
        kind = file.name[len(stem) :].lower()
        number = 0
        if shard := _OF.search(stem):
            stem, number = stem[: shard.start()], int(shard[1])
            total = totals.setdefault((file.parent, stem), int(shard[2]))
            if total != int(shard[2]):
                raise DataError(
                    f"{file}: a shard of {int(shard[2])}, and others of {stem} are of {total}; keep one set"
                )
        elif numbered := _NUMBERED.search(stem):
            stem, number = stem[: numbered.start()], int(numbered[1])
        groups.setdefault((file.parent, stem), {}).setdefault(kind, []).append((number, file))
    told = []
    for (folder, stem), by_kind in groups.items():
        if len(by_kind) > 1:
            first, second, *_ = (shards[0][1] for shards in by_kind.values())
            raise DataError(f"{folder}: both {first.name} and {second.name}; keep one of them")
        shards = sorted(next(iter(by_kind.values())))
        total = totals.get((folder, stem), 0)
        if missing := sorted(set(range(total)) - {number for number, _ in shards}):
            beside = list(folder.glob(f"{escape(stem)}-{missing[0]:05d}-of-*"))
            mend = f"name the folder, or {stem}-*" if beside else "bring the file"
            raise DataError(
                f"{shards[0][1]}: shard {missing[0]} of {total} is missing (counted from 0); {mend}"
            )
        inner = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
        name = stem or "/".join(inner[-1:]) or shards[0][1].stem
        said = next((word for word in (stem, *reversed(inner)) if split_named(word)), None)
        table = next(filter(None, map(_table, (stem, *reversed(inner)))), None)
        told.append(Part(name, tuple(file for _, file in shards), table, said and split_named(said), said))
    return told


def _saved(folder: Path, files: tuple[Path, ...], split: str | None) -> Part:
    name = folder.name
    return Part(name, files, _table(name) or _table(folder.parent.name), split and split_named(split), split)


def _table(name: str) -> str | None:
    return next(
        (table for table in (*TABLES, "judgments") if table in re.split(r"[^a-z]+", name.lower())), None
    )
