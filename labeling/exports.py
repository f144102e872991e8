"""Labels out: a folder with the tables of a project's labels, the same bytes for the same labels.

The folder gets the tables of `labeling.contracts` that have rows, and `manifest.json` with a hash of the
content. Nothing in the files tells when or where they were written.
"""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from labeling.contracts import TABLES, rows_hash, tables
from labeling.rows import dumps
from rlhf.data.contracts import Contract
from rlhf.data.errors import DataError
from rlhf.data.files import write_json, written_beside
from rlhf.data.formats.formulas import MARK, SAID, guarded
from rlhf.data.table import write_table

FORMATS = ("parquet", "jsonl", "csv")


def export(
    tx: sa.Connection,
    project: str,
    folder: Path | str,
    form: str = "parquet",
    version: int | None = None,
    since: int = 0,
) -> dict[str, Any]:
    """Write a project's labels to a folder, beside then renamed, and return the manifest.

    Raises:
        DataError: no such project, version or format, or the folder holds something else.
    """
    if form not in FORMATS:
        raise DataError(f"unknown format {form!r}; it is one of {', '.join(FORMATS)}")
    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not _is_export(folder)):
        raise DataError(f"{folder} is there and is no export; name a new folder")
    contents = tables(tx, project, version, since)
    manifest: dict[str, Any] = {"project": project, "version": version, "since": since, "tables": {}}
    whole = hashlib.sha256()
    for name, rows in contents.items():
        digest = rows_hash(rows)
        whole.update(f"{name}\0{digest}\n".encode())
        manifest["tables"][name] = {"rows": len(rows), "sha256": digest}
    manifest["content_hash"] = whole.hexdigest()
    if form == "csv":
        manifest[SAID] = f"a text that a spreadsheet would run has {MARK} before it"
    with written_beside(folder) as beside:
        beside.mkdir()
        for name, rows in contents.items():
            if rows:
                _write(beside / f"{name}.{form}", TABLES[name], rows)
        write_json(beside / "manifest.json", manifest)
    return manifest


def _is_export(folder: Path) -> bool:
    try:
        return "content_hash" in json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return False


def _write(path: Path, contract: Contract, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        write_table(path, contract, rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(contract.schema.names)
            for row in rows:
                writer.writerow([_cell(row[name]) for name in contract.schema.names])


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return guarded(value)
    return value if value is None else json.dumps(value, ensure_ascii=False)
