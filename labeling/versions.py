"""Versions of the labels: what one training round uses.

`cut_version` puts every label that is in no version yet into a new one, so a label is in one version only.
"""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from labeling.projects import lock_project, project_id
from labeling.rows import insert, record
from labeling.schema import labels, queues, version_labels, versions


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


def cut_version(tx: sa.Connection, project: str, who: str) -> int | None:
    """Put all labels that are in no version yet into a new one; its number, or None if there are none.

    On PostgreSQL a label whose transaction is still open is not seen and goes into the next version.
    """
    number = project_id(tx, project)
    lock_project(tx, number)
    chosen = tx.scalars(_unused(number)).all()
    if not chosen:
        return None
    version = newest_version(tx, project) + 1
    values = {"project_id": number, "number": version, "author": who, "created": time.time()}
    key = insert(tx, versions, values)
    tx.execute(version_labels.insert(), [{"label_id": label, "version_id": key} for label in chosen])
    record(tx, who, "cut version", project=project, version=version, labels=len(chosen))
    return version
