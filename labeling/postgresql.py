"""What the store does on PostgreSQL: settings of a connection, and one wait for the disk for many commits."""

from __future__ import annotations

import itertools
import select
import threading
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DisconnectionError

PING_AFTER = 5.0  # seconds without use after which a connection is pinged before it is used


class Flusher:
    """Waits until what was committed is on PostgreSQL's disk, once for all who wait at that moment.

    With `synchronous_commit` a transaction keeps its connection while the disk works, and the few connections
    of `Store` carry fewer judgments than people make as soon as an fsync takes 10 ms. So transactions commit
    without waiting (`configure`), and this connection, which waits as the server is set up to, then commits
    a message that goes into the write-ahead log behind all of them. It vouches only for what began while it
    was open: a server that crashed ended it as well, and with it `flush` of all whose commits may be lost.
    """

    def __init__(self, engine: sa.Engine) -> None:
        # The driver's own connection, because SQLAlchemy's may silently be another one after an error.
        self._dialect, opened = engine.dialect, engine.connect()
        connection: Any = opened.connection.driver_connection
        opened.detach()
        connection.autocommit = True
        connection.execute("RESET synchronous_commit")
        self._connection = connection
        self._numbers = itertools.count(1)
        self._committed = self._flushed = 0
        self._turn = threading.Lock()
        self._used = time.monotonic()

    def flush(self) -> None:
        """Return once all that this thread committed is on disk.

        Raises:
            psycopg.Error: the server ended the connection, so it is not known what is on disk.
        """
        mine = self._committed = next(self._numbers)
        with self._turn:
            if self._flushed < mine:
                committed = self._committed
                self._connection.execute("SELECT pg_logical_emit_message(true, 'flush', '')")
                self._flushed, self._used = committed, time.monotonic()

    def alive(self) -> bool:
        """Whether it can be relied on, as far as can be told without waiting for a flush under way."""
        if not self._turn.acquire(blocking=False):
            return True
        try:
            now = time.monotonic()
            self._used, rested = now, now - self._used
            return _answers(self._dialect, self._connection, rested)
        finally:
            self._turn.release()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def configure(connection: Any, _: Any) -> None:
    """Settings of a new connection: the plan of a statement that is run again and again is kept, because
    planning it took longer than running it; and waiting for the disk is left to `Flusher`."""
    connection.execute("SET plan_cache_mode = force_generic_plan")
    connection.execute("SET synchronous_commit = off")
    connection.commit()


def check_alive(dialect: sa.Dialect, connection: Any, record: Any, _: Any) -> None:
    """Let the pool make another connection where this one is dead.

    The pool's own ping would be one more round trip to the server for every judgment.
    """
    now = time.monotonic()
    rested = now - record.info.get("used", now)
    record.info["used"] = now
    if not _answers(dialect, connection, rested):
        raise DisconnectionError


def _answers(dialect: Any, connection: Any, rested: float) -> bool:
    """Whether a connection works. It is pinged if it has rested for longer than `PING_AFTER`, or if something
    has arrived unasked, by which PostgreSQL says that it stops."""
    try:
        arrived = select.poll()
        arrived.register(connection.fileno(), select.POLLIN)
        if rested > PING_AFTER or arrived.poll(0):
            dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error:
        return False
    return True
