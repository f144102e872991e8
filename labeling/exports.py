"""Labels out: to the data contracts, with a content hash, the same bytes for the same labels.

A folder gets the tables that have rows (`comparisons`, `demonstrations`, `judgments`, `labels`) and
`manifest.json`. `labels` holds every current label with all that is known about it, gold items, repeats and
votes included; the other three only what may be trained or judged on. Nothing in the files tells when or
where they were written.

A *version* of the labels is what one training round uses: `cut` puts every label that is in no version yet
into a new one. A version can be exported again at any time; a label is in one version only.
"""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from labeling.projects import project_id
from labeling.schema import items, labels, projects, queues, users, version_labels, versions
from labeling.store import dumps, insert, record
from rlhf.data.contracts import COMPARISON, DEMONSTRATION, JUDGMENT, Contract, with_ids
from rlhf.data.errors import DataError
from rlhf.data.files import write_json, written_beside
from rlhf.data.table import write_table

FORMATS = ("parquet", "jsonl", "csv")
_TEXT = pa.string()
LABEL = Contract(
    "label",
    pa.schema(
        [
            ("prompt", _TEXT),
            ("outputs", pa.list_(_TEXT)),
            ("policies", pa.list_(_TEXT)),
            ("reference", _TEXT),
            ("queue", _TEXT),
            ("kind", _TEXT),
            ("role", _TEXT),
            ("answer", _TEXT),  # JSON, as labeling.answers writes it
            ("labeler_id", _TEXT),
            ("labeler_group", _TEXT),
            ("strength", pa.int64()),
            ("shown_order", pa.list_(pa.int64())),
            ("seconds", pa.float64()),
            ("guideline_version", _TEXT),
            ("note", _TEXT),
            ("correct", pa.float64()),
            ("sampling", _TEXT),
            ("propensity", pa.float64()),
            ("content_hash", _TEXT),
            ("split", _TEXT),
            ("source", _TEXT),
            ("id", _TEXT),
        ]
    ),
    ("content_hash", "queue", "kind", "role", "answer", "labeler_id"),
    ("prompt", "answer", "labeler_id"),
)
TABLES = {"comparisons": COMPARISON, "demonstrations": DEMONSTRATION, "judgments": JUDGMENT, "labels": LABEL}
TRAINABLE = ("work", "shared")  # gold, onboarding and repeated items measure people


def new_labels(tx: sa.Connection, project: str, since: int | None = None) -> int:
    """How many given labels of a project are in no version yet, or in one after the version `since`."""
    number = project_id(tx, project)
    chosen = _unused(number) if since is None else _after(number, since)
    chosen = chosen.where(labels.c.status == "given")
    return tx.scalar(sa.select(sa.func.count()).select_from(chosen.subquery())) or 0


def newest_version(tx: sa.Connection, project: str) -> int:
    """The number of a project's newest version; 0 before the first."""
    newest = sa.select(sa.func.max(versions.c.number)).where(versions.c.project_id == project_id(tx, project))
    return tx.scalar(newest) or 0


def _unused(project: int) -> sa.Select[Any]:
    return (
        sa.select(labels.c.id)
        .join(queues, queues.c.id == labels.c.queue_id)
        .where(queues.c.project_id == project, ~sa.exists().where(version_labels.c.label_id == labels.c.id))
    )


def _after(project: int, since: int) -> sa.Select[Any]:
    used = (
        sa.select(version_labels.c.label_id)
        .join(versions, versions.c.id == version_labels.c.version_id)
        .where(version_labels.c.label_id == labels.c.id, versions.c.number <= since)
    )
    return (
        sa.select(labels.c.id)
        .join(queues, queues.c.id == labels.c.queue_id)
        .where(queues.c.project_id == project, ~used.exists())
    )


def cut(tx: sa.Connection, project: str, who: str) -> int | None:
    """Put all labels that are in no version yet into a new one; its number, or None if there are none.

    On PostgreSQL a label whose transaction is still open is not seen and goes into the next version.
    """
    number = project_id(tx, project)
    tx.execute(sa.select(projects.c.id).where(projects.c.id == number).with_for_update())
    chosen = tx.scalars(_unused(number)).all()
    if not chosen:
        return None
    version = newest_version(tx, project) + 1
    values = {"project_id": number, "number": version, "author": who, "created": time.time()}
    key = insert(tx, versions, values)
    tx.execute(version_labels.insert(), [{"label_id": label, "version_id": key} for label in chosen])
    record(tx, who, "cut version", project=project, version=version, labels=len(chosen))
    return version


def tables(
    tx: sa.Connection, project: str, version: int | None = None, since: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Rows of each contract, each once, in the order of their ids.

    Args:
        tx: a transaction.
        project: its name.
        version: labels up to this version; None for all labels there are.
        since: leave out the labels of this version and those before it.

    Raises:
        DataError: no such project or version.
    """
    rows = _current(tx, project_id(tx, project), version, since)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for row in rows:
        found["labels"].append(_label(row))
        if row.role in TRAINABLE:
            for name, made in _contract_rows(row):
                found[name].append(made)
    return {name: _ordered(TABLES[name], made) for name, made in found.items()}


def _current(tx: sa.Connection, project: int, version: int | None, since: int) -> Sequence[sa.Row[Any]]:
    """The given labels that nothing among those up to `version` supersedes."""
    newer, newer_in, newer_version = labels.alias(), version_labels.alias(), versions.alias()
    superseded = sa.exists().where(newer.c.supersedes == labels.c.id)
    chosen = (
        sa.select(
            labels,
            items.c.prompt,
            items.c.outputs,
            items.c.policies,
            items.c.reference,
            items.c.role,
            items.c.sampling,
            items.c.propensity,
            items.c.split,
            items.c.source,
            queues.c.name.label("queue"),
            users.c.name.label("labeler"),
        )
        .join(items, items.c.id == labels.c.item_id)
        .join(queues, queues.c.id == labels.c.queue_id)
        .join(users, users.c.id == labels.c.user_id)
        .where(queues.c.project_id == project, labels.c.status == "given")
    )
    if version is not None or since:
        newest = tx.scalar(sa.select(sa.func.max(versions.c.number)).where(versions.c.project_id == project))
        for asked in (version, since or None):
            if asked is not None and not 1 <= asked <= (newest or 0):
                raise DataError(f"there is no version {asked}; the newest is {newest or 'none yet'}")
        chosen = chosen.outerjoin(version_labels, version_labels.c.label_id == labels.c.id)
        chosen = chosen.outerjoin(versions, versions.c.id == version_labels.c.version_id)
        if since:
            chosen = chosen.where(sa.or_(versions.c.number.is_(None), versions.c.number > since))
        if version is not None:
            chosen = chosen.where(versions.c.number <= version)
            superseded = sa.exists().where(
                newer.c.supersedes == labels.c.id,
                newer_in.c.label_id == newer.c.id,
                newer_version.c.id == newer_in.c.version_id,
                newer_version.c.number <= version,
            )
    return tx.execute(chosen.where(~superseded)).all()


def _label(row: sa.Row[Any]) -> dict[str, Any]:
    made = {name: getattr(row, name) for name in LABEL.schema.names if hasattr(row, name)}
    return made | {"answer": dumps(row.answer), "labeler_id": row.labeler, "id": None}


def _contract_rows(row: sa.Row[Any]) -> list[tuple[str, dict[str, Any]]]:
    """What one label says in the contracts: a comparison, a judgment, or of an edit a demonstration and the
    comparison (edited > original). Votes are in `labels` only."""
    answer = row.answer
    common = {"prompt": row.prompt, "split": row.split, "source": row.source}
    compared = common | {
        "labeler_id": row.labeler,
        "labeler_group": row.labeler_group,
        "strength": row.strength,
        "seconds": row.seconds,
        "guideline_version": row.guideline_version,
    }
    if row.kind == "judge":
        judgment = {"reference": row.reference, "output": row.outputs[0], "policy": row.policies[0]}
        judgment |= {"preferred": answer["preferred"], "judge_id": row.labeler, "judge_kind": "human"}
        return [("judgments", common | judgment | {"shown_order": row.shown_order})]
    if row.kind in ("compare", "rank"):
        ranked = [k for k, rank in enumerate(answer["ranking"]) if rank is not None]
        comparison: dict[str, Any] = {
            "completions": [row.outputs[k] for k in ranked],
            "policies": [row.policies[k] for k in ranked],
            "ranking": [answer["ranking"][k] for k in ranked],
            "shown_order": [ranked.index(k) for k in row.shown_order if k in ranked],
        }
        return [("comparisons", compared | comparison)]
    if row.kind == "edit":
        text = answer["text"]
        made = [("demonstrations", common | {"completion": text, "writer_id": row.labeler})]
        if row.outputs and text.strip() != row.outputs[0].strip():
            comparison = {
                "completions": [text, row.outputs[0]],
                "policies": ["edited", row.policies[0]],
                "ranking": [1, 2],
                "strength": None,
            }
            made.append(("comparisons", compared | comparison))
        return made
    return []


def _ordered(contract: Contract, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with ids and all columns, each id once, sorted: the order of the database does not show."""
    full = [{name: row.get(name) for name in contract.schema.names} for row in rows]
    full.sort(key=dumps)
    once = {row["id"]: row for row in with_ids(contract, full, "feedback")}
    return [once[key] for key in sorted(once)]


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
    found = tables(tx, project, version, since)
    manifest: dict[str, Any] = {"project": project, "version": version, "since": since, "tables": {}}
    whole = hashlib.sha256()
    for name, rows in found.items():
        digest = rows_hash(rows)
        whole.update(f"{name}\0{digest}\n".encode())
        manifest["tables"][name] = {"rows": len(rows), "sha256": digest}
    manifest["content_hash"] = whole.hexdigest()
    with written_beside(folder) as beside:
        beside.mkdir()
        for name, rows in found.items():
            if rows:
                _write(beside / f"{name}.{form}", TABLES[name], rows)
        write_json(beside / "manifest.json", manifest)
    return manifest


def rows_hash(rows: Sequence[dict[str, Any]]) -> str:
    """SHA-256 (hex) of a table's rows, as the manifest has it."""
    return hashlib.sha256("".join(dumps(row) + "\n" for row in rows).encode()).hexdigest()


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
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
