"""Projects and their guidelines, each text of which is a version that labels carry."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from labeling.rows import clean, insert, record
from labeling.schema import guidelines, projects
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
    number = tx.scalar(sa.select(projects.c.id).where(projects.c.name == name))
    if number is None:
        known = ", ".join(repr(n) for n in tx.scalars(sa.select(projects.c.name).order_by(projects.c.name)))
        raise DataError(f"there is no project {name!r}; there is {known or 'none yet'}")
    return number


def add_guideline(tx: sa.Connection, project: int, text: str, who: str) -> str:
    """Add the next version of a project's guideline; from now on labels are given under it."""
    text = clean(text, "the guideline")
    lock_project(tx, project)
    count = tx.scalar(
        sa.select(sa.func.count()).select_from(guidelines).where(guidelines.c.project_id == project)
    )
    version = str((count or 0) + 1)
    values = {"project_id": project, "version": version, "text": text, "author": who}
    tx.execute(guidelines.insert().values(created=time.time(), **values))
    record(tx, who, "add guideline", project=project, version=version)
    return version


def guideline(tx: sa.Connection, project: int, version: str | None = None) -> sa.Row[Any] | None:
    """A version of a project's guideline, by default the newest; None if there is no such version."""
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


def lock_project(tx: sa.Connection, project: int) -> None:
    """On PostgreSQL, wait for others who number what belongs to a project; SQLite has one writer anyway."""
    tx.execute(sa.select(projects.c.id).where(projects.c.id == project).with_for_update())
