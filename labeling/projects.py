"""Projects, their guidelines and their queues."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from labeling.people import group_id
from labeling.schema import ASK, KINDS, guidelines, items, projects, queues
from labeling.store import clean, insert, record
from rlhf.data.errors import DataError


def add_project(tx: sa.Connection, name: str, who: str) -> int:
    """Add a project.

    Raises:
        DataError: the name is taken.
    """
    name = clean(name.strip(), "the project's name", 60)
    if tx.scalar(sa.select(projects.c.id).where(projects.c.name == name)):
        raise DataError(f"there is a project {name!r} already; choose another name")
    record(tx, who, "add project", name=name)
    return insert(tx, projects, {"name": name, "created": time.time()})


def project_id(tx: sa.Connection, name: str) -> int:
    """The id of a project.

    Raises:
        DataError: there is none of this name.
    """
    found = tx.scalar(sa.select(projects.c.id).where(projects.c.name == name))
    if found is None:
        known = ", ".join(repr(n) for n in tx.scalars(sa.select(projects.c.name).order_by(projects.c.name)))
        raise DataError(f"there is no project {name!r}; there is {known or 'none yet'}")
    return found


def add_guideline(tx: sa.Connection, project: int, text: str, who: str) -> str:
    """Add the next version of a project's guideline; from now on labels are given under it."""
    text = clean(text, "the guideline")
    in_turn(tx, projects, project)
    count = tx.scalar(
        sa.select(sa.func.count()).select_from(guidelines).where(guidelines.c.project_id == project)
    )
    version = str((count or 0) + 1)
    values = {"project_id": project, "version": version, "text": text, "author": who}
    tx.execute(guidelines.insert().values(created=time.time(), **values))
    record(tx, who, "add guideline", project=project, version=version)
    return version


def guideline(tx: sa.Connection, project: int, version: str | None = None) -> sa.Row[Any] | None:
    """A version of a project's guideline, the newest where none is named; None if there is no such."""
    chosen = sa.select(guidelines).where(guidelines.c.project_id == project)
    if version is not None:
        chosen = chosen.where(guidelines.c.version == version)
    return tx.execute(chosen.order_by(guidelines.c.id.desc()).limit(1)).first()


def newest_guideline(project: sa.ColumnElement[int] | int) -> sa.ScalarSelect[str]:
    """A subquery: the version of a project's newest guideline."""
    return (
        sa.select(guidelines.c.version)
        .where(guidelines.c.project_id == project)
        .order_by(guidelines.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )


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
    """Change a queue; a new overlap holds for the items that are not in the shared pool."""
    _check_queue(overlap, lease_seconds)
    values = {"overlap": overlap, "lease_seconds": lease_seconds, "active": active}
    values["group_id"] = group_id(tx, group) if group else None  # type: ignore[assignment]
    tx.execute(queues.update().where(queues.c.id == queue).values(**values))
    tx.execute(items.update().where(items.c.queue_id == queue, items.c.role == "work").values(target=overlap))
    record(tx, who, "change queue", queue=queue, **values)


def _check_queue(overlap: int, lease_seconds: int) -> None:
    if not 1 <= overlap <= 1000:
        raise DataError("the overlap (labels an item) lies between 1 and 1000")
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


def in_turn(tx: sa.Connection, table: sa.Table, number: int) -> None:
    """On PostgreSQL, wait for others who change what belongs to this row; SQLite has one writer anyway."""
    tx.execute(sa.select(table.c.id).where(table.c.id == number).with_for_update())
