"""Labels as rows of the data contracts.

`labels` holds every current label with all that is known about it, gold items, repeats and votes included;
the other tables hold only what may be trained or judged on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from labeling.projects import project_id
from labeling.rows import dumps
from labeling.schema import items, labels, queues, users, version_labels, versions
from rlhf.data.contracts import COMPARISON, DEMONSTRATION, JUDGMENT, VOTE, Contract, row_id, with_ids
from rlhf.data.errors import DataError

_TEXT = pa.string()
LABEL = Contract(
    "label",
    pa.schema(
        [
            ("prompt", _TEXT),
            COMPARISON.schema.field("messages"),
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


TABLES = {
    "comparisons": COMPARISON,
    "demonstrations": DEMONSTRATION,
    "judgments": JUDGMENT,
    "votes": VOTE,
    "labels": LABEL,
}
SOURCE = "feedback"  # where an item names none; it is in the hashes of old versions, so the name stays
_LATER = ("scores", "margin", "both_bad", "note", "extra")  # columns that the hash of rankings leaves out
TRAINABLE = ("work", "shared")  # gold, onboarding and repeated items measure people


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
    rows_of: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for label in _current(tx, project_id(tx, project), version, since):
        rows_of["labels"].append(_label_row(label))
        if label.role in TRAINABLE:
            for name, row in _contract_rows(label):
                rows_of[name].append(row)
    return {name: _ordered(TABLES[name], rows) for name, rows in rows_of.items()}


def _current(tx: sa.Connection, project: int, version: int | None, since: int) -> Sequence[sa.Row[Any]]:
    """The labels that were given, not skipped or undone, and that no label up to `version` supersedes."""
    newer, newer_in, newer_version = labels.alias(), version_labels.alias(), versions.alias()
    superseded = sa.exists().where(newer.c.supersedes == labels.c.id)
    chosen = (
        sa.select(
            labels,
            items.c.prompt,
            items.c.messages,
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
        for number in (version, since or None):
            if number is not None and not 1 <= number <= (newest or 0):
                raise DataError(f"there is no version {number}; the newest is {newest or 'none yet'}")
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


def _label_row(label: sa.Row[Any]) -> dict[str, Any]:
    row = {name: getattr(label, name) for name in LABEL.schema.names if hasattr(label, name)}
    return row | {"answer": dumps(label.answer), "labeler_id": label.labeler, "id": None}


def _contract_rows(label: sa.Row[Any]) -> list[tuple[str, dict[str, Any]]]:
    """A label as rows of the contracts, each as (table, row): a comparison, a judgment or a vote, or for an
    edit a demonstration and the comparison (edited > original). An output that was not ranked has a null
    rank; where fewer than two were ranked, nothing is preferred, and only `labels` has the label."""
    answer = label.answer
    common = {
        "prompt": label.prompt,
        "messages": label.messages,
        "split": label.split,
        "source": label.source,
        "extra": answer.get("extra"),
    }
    compared = common | {
        "labeler_id": label.labeler,
        "labeler_group": label.labeler_group,
        "strength": label.strength,
        "seconds": label.seconds,
        "guideline_version": label.guideline_version,
        "note": label.note or None,
    }
    if label.kind == "judge":
        judgment = {"reference": label.reference, "output": label.outputs[0], "policy": label.policies[0]}
        judgment |= {"preferred": answer["preferred"], "judge_id": label.labeler}
        judgment["judge_kind"] = answer.get("judge_kind", "human")
        return [("judgments", common | judgment | {"shown_order": label.shown_order or None})]
    if label.kind in ("compare", "rank"):
        if sum(rank is not None for rank in answer["ranking"]) < 2:
            return []
        comparison: dict[str, Any] = {
            "completions": label.outputs,
            "policies": label.policies,
            "ranking": answer["ranking"],
            # an imported label may not say in which order its outputs were shown
            "shown_order": label.shown_order or None,
            "scores": answer.get("scores"),
            "margin": answer.get("margin"),
            "both_bad": answer.get("both_bad") or None,
        }
        return [("comparisons", compared | comparison)]
    if label.kind == "edit":
        text = answer["text"]
        rows = [("demonstrations", common | {"completion": text, "writer_id": label.labeler})]
        if label.outputs and text.strip() != label.outputs[0].strip():
            comparison = {
                "completions": [text, label.outputs[0]],
                "policies": ["edited", label.policies[0]],
                "ranking": [1, 2],
                "strength": None,
            }
            rows.append(("comparisons", compared | comparison))
        return rows
    vote = {"completion": label.outputs[0], "label": answer["vote"] == "up", "labeler_id": label.labeler}
    return [("votes", common | vote | {"labeler_group": label.labeler_group})]


def _ordered(contract: Contract, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with ids and all columns, each id once, sorted, so that the database's order does not show."""
    full = [{name: row.get(name) for name in contract.schema.names} for row in rows]
    full.sort(key=dumps)
    by_id = {row["id"]: row for row in with_ids(contract, full, SOURCE)}
    return [by_id[key] for key in sorted(by_id)]


def rows_hash(rows: Sequence[dict[str, Any]]) -> str:
    """SHA-256 (hex) of a table's rows, as the manifest has it.

    Versions pinned before there were newer columns keep their hash: rows of plain text are hashed without
    `messages`, rows that train without `_LATER`, no shown order as an empty one, and rankings without the
    outputs that were not ranked, which train nothing.
    """
    by_id = {row["id"]: row for row in map(_ranked_only, rows)}
    hashed = (dumps(_hashed(by_id[key])) + "\n" for key in sorted(by_id))
    return hashlib.sha256("".join(hashed).encode()).hexdigest()


def _ranked_only(row: dict[str, Any]) -> dict[str, Any]:
    ranks = row.get("ranking") or ()
    if None not in ranks:
        return row
    ranked = [k for k, rank in enumerate(ranks) if rank is not None]
    kept = {name: [row[name][k] for k in ranked] for name in ("completions", "policies", "ranking")}
    order = [ranked.index(k) for k in row["shown_order"] or () if k in ranked]
    new = row | kept | {"shown_order": order or None}
    return new | {"id": row_id(COMPARISON, new)}


def _hashed(row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if "answer" in row or name not in _LATER}
    if kept.get("messages", 0) is None:
        del kept["messages"]
    if kept.get("shown_order", 0) is None:
        kept["shown_order"] = []
    return kept
