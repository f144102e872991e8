"""A folder of files as a source: demonstrations, and perhaps prompts, comparisons and a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf.data.contracts import TABLES
from rlhf.data.errors import DataError
from rlhf.data.readers import read_rows
from rlhf.data.sources import SUFFIXES, Raw, Rows, marked, source_hash, table_file


def files(path: Path | str) -> Raw:
    """A folder with `demonstrations`, and where there are any, `prompts`, `comparisons` and `corpus`.

    Each is a `.jsonl`, `.json`, `.csv` or `.parquet` file. Without a corpus the demonstrations serve as one.

    Raises:
        DataError: no such folder, no demonstrations, one table in two files, or rows that cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"{path}: no such folder; source files needs one with demonstrations in it")
    if table_file(folder, "demonstrations") is None:
        raise DataError(f"{folder}: no demonstrations file; it may end in {', '.join(SUFFIXES)}")
    tables: dict[str, Rows] = {}
    notes: list[str] = []
    for name, contract in TABLES.items():
        file = table_file(folder, name)
        rows = read_rows(file, contract, notes) if file else []
        tables[name] = marked(rows, file.name if file else name)
    if not tables["corpus"]:
        tables["corpus"] = [
            {"text": _whole(row), "source": row["source"]} for row in tables["demonstrations"]
        ]
    return Raw(tables, [], f"sha256 {source_hash(folder)}", tuple(notes))


def _whole(row: dict[str, Any]) -> str:
    """A demonstration as one text, which opens with its prompt."""
    prompt, completion = row["prompt"] or "", row["completion"] or ""
    if row.get("messages") is None:
        return f"{prompt} {completion.strip()}"
    return f"{prompt}\n\nAssistant: {completion}"
