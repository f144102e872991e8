"""Queues: what kind of work a project asks for, of which group, and how many labels each item gets."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from labeling.people import group_id
from labeling.projects import project_id
from labeling.rows import clean, insert, record
from labeling.schema import ASK, KINDS, items, queues
from rlhf.data.errors import DataError


def add_queue(
    tx: sa.Connection,
    project: int,
    name: str,
    kind: str,
    who: str,
    overlap: int = 1,
    lease_seconds: int = 1800,
    group: str | None = None,
) -> int:
    """Add a queue of one kind of work.

    Raises:
        DataError: the name is taken, or a value is out of bounds.
    """
    name = clean(name.strip(), "the queue's name", 60)
    if kind not in (*KINDS, ASK):
        raise DataError(f"unknown kind {kind!r}; it is one of {', '.join(KINDS)}")
    _check_queue(overlap, lease_seconds)
    if tx.scalar(sa.select(queues.c.id).where(queues.c.project_id == project, queues.c.name == name)):
        raise DataError(f"the project has a queue {name!r} already; choose another name")
    values = {"project_id": project, "name": name, "kind": kind, "overlap": overlap, "active": True}
    values |= {"lease_seconds": lease_seconds, "group_id": group_id(tx, group) if group else None}
    record(tx, who, "add queue", **values)
    return insert(tx, queues, values | {"created": time.time()})


def change_queue(
    tx: sa.Connection,
    queue: int,
    who: str,
    overlap: int,
    lease_seconds: int,
    group: str | None,
    active: bool,
) -> None:
    """Change a queue; a new overlap holds for the items outside the shared pool."""
    _check_queue(overlap, lease_seconds)
    values = {"overlap": overlap, "lease_seconds": lease_seconds, "active": active}
    values["group_id"] = group_id(tx, group) if group else None  # type: ignore[assignment]
    tx.execute(queues.update().where(queues.c.id == queue).values(**values))
    tx.execute(items.update().where(items.c.queue_id == queue, items.c.role == "work").values(target=overlap))
    record(tx, who, "change queue", queue=queue, **values)


def _check_queue(overlap: int, lease_seconds: int) -> None:
    if not 1 <= overlap <= 1000:
        raise DataError("the overlap (labels per item) lies between 1 and 1000")
    if not 1 <= lease_seconds <= 7 * 24 * 3600:
        raise DataError("a lease lasts between 1 second and 7 days")


def queue_row(tx: sa.Connection, project: str, name: str) -> sa.Row[Any]:
    """A queue by the names of its project and itself.

    Raises:
        DataError: there is no such queue.
    """
    number = project_id(tx, project)
    row = tx.execute(sa.select(queues).where(queues.c.project_id == number, queues.c.name == name)).first()
    if row is None:
        known = tx.scalars(sa.select(queues.c.name).where(queues.c.project_id == number)).all()
        raise DataError(
            f"project {project!r} has no queue {name!r}; it has {', '.join(map(repr, known)) or 'none yet'}"
        )
    return row


def queue_by_id(tx: sa.Connection, number: int) -> sa.Row[Any]:
    """A queue by its id.

    Raises:
        DataError: there is none.
    """
    row = tx.execute(sa.select(queues).where(queues.c.id == number)).first()
    if row is None:
        raise DataError("there is no such queue")
    return row
