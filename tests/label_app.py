"""What tests of the label store share: a store on SQLite and on PostgreSQL, people, and a filled queue."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from benchmarks.postgres import Postgres, binaries, temporary_postgres
from labeling import people
from labeling.answers import Choice
from labeling.candidates import Candidate
from labeling.items import Filling, add_items
from labeling.labels import store_answer
from labeling.people import User
from labeling.projects import add_project
from labeling.queues import add_queue, queue_row
from labeling.schema import groups, users
from labeling.store import Store
from labeling.work import Work, next_work

PASSWORD = "correct horse battery"
ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; skipped where there is none."""
    folder = binaries()
    if folder is None:
        pytest.skip("no PostgreSQL server here (looked beside `postgres` on PATH and in /usr/lib/postgresql)")
    with temporary_postgres(folder, durable=False) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'labels.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = f"t{time.monotonic_ns()}"
    server.execute(f"CREATE DATABASE {name}")
    yield server.url(name)
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A store with a project `p`."""
    opened = Store(url)
    with opened.write() as tx:
        add_project(tx, "p", "test")
    yield opened
    opened.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Store]:
    """A store with a project `p`, on SQLite only."""
    opened = Store(f"sqlite:///{tmp_path / 'labels.db'}")
    with opened.write() as tx:
        add_project(tx, "p", "test")
    yield opened
    opened.close()


def person(store: Store, name: str, group: str = "labelers", role: str = "labeler") -> User:
    """A new user, with `PASSWORD`."""
    with store.write() as tx:
        number = people.add_user(tx, name, PASSWORD, role, group)
        row = tx.execute(
            sa.select(users.c.group_id, groups.c.name).join(groups).where(users.c.id == number)
        ).one()
    return User(number, name, role, row.group_id, row.name)


def candidates(number: int, outputs: int = 2) -> list[Candidate]:
    """Prompts `prompt 0`, ... with outputs `output 0.0`, ... and a reference."""
    return [
        Candidate(
            f"prompt {i}",
            tuple(f"output {i}.{k}" for k in range(outputs)),
            tuple(f"policy{k}" for k in range(outputs)),
            reference=f"reference {i}",
        )
        for i in range(number)
    ]


def filled(
    store: Store,
    kind: str,
    items: list[Candidate],
    overlap: int = 1,
    name: str | None = None,
    lease_seconds: int = 1800,
    **filling: Any,
) -> int:
    """A queue of project `p` with these items; its id."""
    with store.write() as tx:
        name = name or kind
        add_queue(tx, 1, name, kind, "test", overlap, lease_seconds)
        row = queue_row(tx, "p", name)
        add_items(tx, row, items, Filling(**filling), "test")
    return row.id


def answer(store: Store, user: User, queue: int, **choice: Any) -> tuple[Work, int]:
    """Take the next item of a queue and answer it; what was shown and the label's id."""
    work = next_work(store, user, queue)
    assert work is not None
    with store.write() as tx:
        return work, store_answer(tx, user, work.key, Choice(**choice))
