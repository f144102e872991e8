"""Folders that `datasets.save_to_disk` wrote: which Arrow files they hold, in which order, of which split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.data.errors import DataError

_STATE, _SPLITS = "state.json", "dataset_dict.json"


@dataclass(frozen=True)
class Saved:
    """A data set, or a split of one: its folder, its files in order, and its split's name, if it has one."""

    folder: Path
    files: tuple[Path, ...]
    split: str | None


def saved_in(folder: Path) -> Iterator[Saved]:
    """What `save_to_disk` wrote to a folder and the folders in it.

    Raises:
        DataError: one of its files is missing or cannot be read.
    """
    for state in sorted(folder.rglob(_STATE)):
        # A row number is written there where rows were selected and not copied; newer versions always copy.
        content = _json(state)
        listed = [entry.get("filename") for entry in content.get("_data_files") or ()]
        if "_data_files" not in content:
            continue  # another program's file of that name
        if content.get("_indices_data_files"):
            raise DataError(
                f"{state.parent}: only some rows of its files belong to it; write it again with "
                "flatten_indices()"
            )
        files = tuple(state.parent / str(name) for name in listed)
        for file in files:
            if not file.is_file():
                raise DataError(
                    f"{state.parent}: {file.name} is missing, which {_STATE} names; copy it again"
                )
        splits = _json(state.parent.parent / _SPLITS).get("splits", ())
        split = state.parent.name if state.parent.name in splits else content.get("_split")
        yield Saved(state.parent, files, None if split is None else str(split))


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({error}); write the data set again") from None
    return content if isinstance(content, dict) else {}
