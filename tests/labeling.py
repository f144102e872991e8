"""What tests of the label store share: a store on SQLite and on PostgreSQL, people, and a filled queue."""

from __future__ import annotations

import getpass
import glob
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from feedback import people, queues
from feedback.answers import Choice
from feedback.labels import Work, give, next_work
from feedback.people import User
from feedback.queues import Candidate, Filling
from feedback.schema import groups, users
from feedback.store import Store

PASSWORD = "correct horse battery"
ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"


@dataclass(frozen=True)
class Postgres:
    """A server of the test session: the folder of its socket and who it runs as."""

    socket: str
    user: str

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{self.user}@/{database}?host={self.socket}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, run as another user where root may not run one; skipped where there is none."""
    folders = [*filter(None, [os.path.dirname(os.path.realpath(shutil.which("postgres") or ""))])]
    folders += sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    found = next(
        (f for f in folders if os.path.exists(f"{f}/initdb") and os.path.exists(f"{f}/postgres")), None
    )
    if found is None:
        pytest.skip(
            "no PostgreSQL server here (looked for initdb beside `postgres` and in /usr/lib/postgresql)"
        )
    folder = tempfile.mkdtemp(prefix="pg")
    user, owner = getpass.getuser(), {}
    if os.geteuid() == 0:
        user = "nobody"
        shutil.chown(folder, user)
        owner = {"user": user}
    quiet: dict[str, Any] = {
        "cwd": folder,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.STDOUT,
        **owner,
    }
    data = f"{folder}/data"
    subprocess.run(
        [f"{found}/initdb", "-D", data, "-U", user, "-A", "trust", "--no-sync"], check=True, **quiet
    )
    options = [
        "-D",
        data,
        "-k",
        folder,
        "-c",
        "listen_addresses=",
        "-c",
        "fsync=off",
        "-c",
        "max_connections=60",
    ]
    server = subprocess.Popen([f"{found}/postgres", *options], **quiet)
    here = Postgres(folder, user)
    for _ in range(100):
        try:
            Store(here.url()).close()
            break
        except Exception:
            assert server.poll() is None, "postgres did not start"
            time.sleep(0.05)
    yield here
    server.terminate()
    server.wait(10)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'labels.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = f"t{time.monotonic_ns()}"
    engine = sa.create_engine(server.url().replace("://", "+psycopg://", 1), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield server.url(name)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A store with a project `p`."""
    opened = Store(url)
    with opened.write() as tx:
        queues.add_project(tx, "p", "test")
    yield opened
    opened.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Store]:
    """A store with a project `p`, on SQLite only."""
    opened = Store(f"sqlite:///{tmp_path / 'labels.db'}")
    with opened.write() as tx:
        queues.add_project(tx, "p", "test")
    yield opened
    opened.close()


def person(store: Store, name: str, group: str = "labelers", role: str = "labeler") -> User:
    """A new user, with `PASSWORD`."""
    with store.write() as tx:
        number = people.add_user(tx, name, PASSWORD, role, group)
        found = tx.execute(
            sa.select(users.c.group_id, groups.c.name).join(groups).where(users.c.id == number)
        ).one()
    return User(number, name, role, found.group_id, found.name)


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
        queues.add_queue(tx, 1, name, kind, "test", overlap, lease_seconds)
        row = queues.queue_row(tx, "p", name)
        queues.add_items(tx, row, items, Filling(**filling), "test")
    return row.id


def answer(store: Store, user: User, queue: int, **choice: Any) -> tuple[Work, int]:
    """Take the next item of a queue and answer it; what was shown and the label's id."""
    work = next_work(store, user, queue)
    assert work is not None
    with store.write() as tx:
        return work, give(tx, user, work.key, Choice(**choice))
