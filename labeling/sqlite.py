"""What the store does on SQLite: settings of a connection, and one transaction for all writes that wait.

SQLite runs in WAL mode with synchronous=FULL: what was acknowledged survives SIGKILL and power loss.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

BUSY_MS = 15_000  # how long a writer waits for one of another process
CACHE_KIB = 8192  # of a connection; SQLite's own default is 2,000
Result = TypeVar("Result")


@dataclass
class _Job:
    """A write that waits for its turn, and what came of it."""

    work: Callable[[sa.Connection], Any]
    result: Any = None
    error: BaseException | None = None
    done: bool = False


class GroupCommit:
    """Has writes that wait for their turn share one transaction, so that they wait for the disk once and not
    one after the other.

    Args:
        turn: the lock of whoever writes.
        transaction: begins a transaction that writes, and commits it at the end.
    """

    def __init__(
        self, turn: threading.Lock, transaction: Callable[[], AbstractContextManager[sa.Connection]]
    ) -> None:
        self._turn, self._transaction = turn, transaction
        self.waiting: deque[_Job] = deque()

    def run(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Run `work(tx)` together with all that wait at that moment; its result, once that is stored.

        Each is behind a savepoint, so that an exception takes back what its own work did and nothing else.
        """
        job = _Job(work)
        self.waiting.append(job)
        with self._turn:
            if not job.done:
                self._run_waiting()
        if job.error:
            raise job.error
        return job.result

    def _run_waiting(self) -> None:
        jobs = [self.waiting.popleft() for _ in range(len(self.waiting))]
        try:
            with self._transaction() as tx:
                cursor = tx.connection.cursor()
                for job in jobs:
                    cursor.execute("SAVEPOINT job")
                    try:
                        job.result = job.work(tx)
                    except Exception as error:
                        job.error = error
                        cursor.execute("ROLLBACK TO job")
                    cursor.execute("RELEASE job")
        except BaseException as error:  # The transaction failed, so nothing of it is stored.
            for job in jobs:
                job.error = error
        for job in jobs:
            job.done = True


def configure(connection: Any, _: Any) -> None:
    """Settings of a new connection."""
    connection.isolation_level = None  # `begin` says which BEGIN, and the driver adds none of its own
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    cursor.close()


def begin(connection: sa.Connection) -> None:
    """Begin a transaction, as a writer where the execution option `immediate` says so."""
    immediate = connection.get_execution_options().get("immediate")
    connection.connection.cursor().execute("BEGIN IMMEDIATE" if immediate else "BEGIN")
