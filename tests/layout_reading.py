"""What tests of layouts share: records written to a file and read by the driver that the pipeline uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.layouts.layout import Item, Notes, Options
from rlhf.data.reading import Source, read

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"


def read_records(folder: Path, records: list[dict[str, Any]], **options: Any) -> tuple[list[Item], list[str]]:
    """The items of records, and the notes."""
    path = folder / "export.json"
    path.write_text(json.dumps(records))
    return read_path(path, **options)


def read_path(path: Path, **options: Any) -> tuple[list[Item], list[str]]:
    """The items of a file, and the notes."""
    notes = Notes()
    items = list(read(Source(str(path), options=Options(**options)), notes))
    return items, notes.lines()


def case(name: str) -> Path:
    """A case file; skipped where the cases are not there."""
    path = CASES / name
    if not path.exists():
        pytest.skip(f"no case file at {path}")
    return path


def rankings(items: list[Item]) -> list[list[int | None]]:
    """The rankings of the comparisons among items."""
    return [item.row["ranking"] for item in items if item.table == "comparisons"]
