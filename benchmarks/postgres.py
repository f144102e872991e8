"""A PostgreSQL server for a test or a measurement, in a folder of its own that is removed afterwards."""

from __future__ import annotations

import getpass
import glob
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg


@dataclass(frozen=True)
class Postgres:
    """A running server: the folder of its socket, and its superuser."""

    socket: str
    user: str

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy URL of a database."""
        return f"postgresql://{self.user}@/{database}?host={self.socket}"

    def execute(self, statement: str) -> None:
        """Run a statement outside a transaction, e.g. CREATE DATABASE."""
        with psycopg.connect(
            host=self.socket, user=self.user, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement)  # type: ignore[arg-type]


def binaries() -> str | None:
    """The folder of `initdb` and `postgres`: beside the one on PATH, or the newest Debian package."""
    on_path = shutil.which("postgres")
    folders = [os.path.dirname(os.path.realpath(on_path))] if on_path else []
    folders += sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    return next(
        (f for f in folders if os.path.exists(f"{f}/initdb") and os.path.exists(f"{f}/postgres")), None
    )


@contextmanager
def temporary_postgres(folder: str, durable: bool = True) -> Iterator[Postgres]:
    """Run the server of `folder`, as `nobody` where this process is root, because PostgreSQL refuses that.

    Args:
        folder: what `binaries` returns.
        durable: whether commits wait for the disk (fsync), as they do in use.
    """
    place = tempfile.mkdtemp(prefix="pg")
    user, owner = getpass.getuser(), {}
    if os.geteuid() == 0:
        user = "nobody"
        shutil.chown(place, user)
        owner = {"user": user}
    quiet: dict[str, Any] = {"cwd": place, "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, **owner}
    initdb = [f"{folder}/initdb", "-D", f"{place}/data", "-U", user, "-A", "trust", "--no-sync"]
    subprocess.run(initdb, check=True, **quiet)
    options = ["-D", f"{place}/data", "-k", place, "-c", "listen_addresses=", "-c", "max_connections=100"]
    options += [] if durable else ["-c", "fsync=off"]
    server = subprocess.Popen([f"{folder}/postgres", *options], **quiet)
    here = Postgres(place, user)
    try:
        _wait(here, server)
        yield here
    finally:
        server.send_signal(signal.SIGINT)  # it waits for no client that is still connected
        server.wait(20)
        shutil.rmtree(place, ignore_errors=True)


def _wait(here: Postgres, server: subprocess.Popen[bytes]) -> None:
    for _ in range(400):
        try:
            here.execute("SELECT 1")
            return
        except psycopg.OperationalError:
            if server.poll() is not None:
                break
            time.sleep(0.05)
    raise RuntimeError("PostgreSQL did not start")
