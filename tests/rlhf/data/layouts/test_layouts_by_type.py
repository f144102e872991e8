"""The rows of a layout are the same from JSON lines, JSON, Parquet and CSV."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layout_fixtures import FIXTURES, Records
from layout_reading import read_path

NAMES = [name for name in FIXTURES if name != "lqual"]  # of which nothing is read
# Lists under names that are texts elsewhere stay text in a table, and the layout refuses them.
NO_TABLES = ("scitldr", "qa-feedback")


def rows_of(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """What is read of a file, but for its name."""
    items, _ = read_path(path)
    return [(item.table, {k: v for k, v in item.row.items() if k != "source"}) for item in items]


def write(path: Path, records: Records) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        names = list(dict.fromkeys(name for record in records for name in record))
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows([_cell(record.get(name)) for name in names] for record in records)
    return path


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


TYPES = [(name, suffix) for name in NAMES for suffix in ("json", "parquet")]
TYPES += [(name, "csv") for name in NAMES if name not in NO_TABLES]  # nobody writes such lists into a table


@pytest.mark.parametrize(("name", "suffix"), TYPES)
def test_the_same_rows(name: str, suffix: str, tmp_path: Path) -> None:
    records = FIXTURES[name][1]
    if suffix == "parquet" and name == "parallel-people":
        records = [record | {"annotators": ["ann", "7"]} for record in records]  # a list has one type there
    expected = rows_of(write(tmp_path / f"{name}.jsonl", records))
    assert rows_of(write(tmp_path / f"{name}.{suffix}", records)) == expected
