"""Opening the label store: the engine, migrations, transactions, the audit log.

    store = Store("sqlite:////path/feedback.db")      # or postgresql://user@host/name
    with store.write() as tx: ...                     # one short transaction
    with store.read() as tx: ...

SQLite runs in WAL mode with synchronous=FULL: what was acknowledged survives SIGKILL and power loss. Its
writers take turns behind one lock of this process, because SQLite's own waiting is by polling; `busy_timeout`
covers other processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from feedback import schema
from rlhf.contracts import DataError

BUSY_MS = 15_000
dumps = partial(json.dumps, ensure_ascii=False, sort_keys=True)


def default_url() -> str:
    """`FEEDBACK_DB`, else `feedback.db` in the state folder (`RLHF_STATE` or `.state`)."""
    folder = Path(os.environ.get("RLHF_STATE") or ".state").resolve()
    return os.environ.get("FEEDBACK_DB") or f"sqlite:///{folder / 'feedback.db'}"


class Store:
    """A label store in a database that has the newest tables.

    Args:
        url: SQLAlchemy URL of SQLite or PostgreSQL.
        create: make or upgrade the tables; otherwise a store that lacks them is refused.

    Raises:
        DataError: the URL cannot be understood or reached, or the tables are missing or of another version.
    """

    def __init__(self, url: str | None = None, create: bool = True) -> None:
        url = (url or default_url()).replace("postgres://", "postgresql://", 1)
        if url.startswith("postgresql://"):
            url = url.replace("postgresql://", "postgresql+psycopg://", 1)
        try:
            parsed = sa.make_url(url)
        except ArgumentError:
            raise DataError(
                f"{url!r} is no database URL; use sqlite:////path/file.db or postgresql://user@host/name"
            ) from None
        self.url = parsed.render_as_string(hide_password=True)
        self.sqlite = parsed.get_backend_name() == "sqlite"
        if not self.sqlite and parsed.get_backend_name() != "postgresql":
            raise DataError(f"{self.url}: the label store runs on SQLite or PostgreSQL")
        if self.sqlite and parsed.database:
            if not create and not Path(parsed.database).exists():
                raise DataError(f"{parsed.database}: no label store; `python -m feedback init` makes one")
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"pool_size": 16, "max_overflow": 32}
        if not self.sqlite:
            options["pool_pre_ping"] = True
            options["connect_args"] = {"connect_timeout": 10}
        self.engine = sa.create_engine(parsed, json_serializer=dumps, **options)
        self._turn = threading.Lock()
        if self.sqlite:
            sa.event.listen(self.engine, "connect", _sqlite_settings)
            sa.event.listen(self.engine, "begin", _sqlite_begin)
        try:
            self._check(create)
        except (OperationalError, DatabaseError) as error:
            reason = str(error.orig).strip().splitlines()[0]
            raise DataError(f"{self.url}: cannot open the label store: {reason}") from None

    def _check(self, create: bool) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
        with self._turn_for_sqlite(), self.engine.connect() as connection:
            if create:
                connection = connection.execution_options(immediate=True)
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                connection.commit()
            elif not sa.inspect(connection).has_table("labels"):
                raise DataError(f"{self.url}: no label store; `python -m feedback init` makes one")

    def _turn_for_sqlite(self) -> Any:
        return self._turn if self.sqlite else nullcontext()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that writes: committed at the end, rolled back by an exception. Keep it short."""
        with self._turn_for_sqlite(), self.engine.connect() as connection:
            if self.sqlite:
                connection = connection.execution_options(immediate=True)
            with connection.begin():
                yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads, from one snapshot."""
        with self.engine.connect() as connection:
            if not self.sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()


def _sqlite_settings(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # no BEGIN of the driver's own: `_sqlite_begin` says which one
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _sqlite_begin(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def insert(tx: sa.Connection, table: sa.Table, values: dict[str, Any]) -> int:
    """Add a row and return its id."""
    key = tx.execute(table.insert(), values).inserted_primary_key
    assert key is not None
    return key[0]


def record(tx: sa.Connection, who: str, action: str, **detail: Any) -> None:
    """Add a line to the audit log."""
    tx.execute(schema.audit.insert().values(who=who, action=action, detail=detail, created=time.time()))


def content_hash(prompt: str, outputs: list[str], reference: str | None) -> str:
    """Hash of what a labeler is shown, order apart: 16 hex digits."""
    return hashlib.sha256(dumps([prompt, outputs, reference]).encode()).hexdigest()[:16]


def clean(value: str, what: str, longest: int = 100_000, empty: bool = False) -> str:
    """A text that both databases can hold.

    Raises:
        DataError: empty, too long, or with characters that no text column can hold.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{what} holds half of a surrogate pair; save the text as UTF-8") from None
    if "\0" in value:
        raise DataError(f"{what} holds a NUL character; remove it")
    if len(value) > longest:
        raise DataError(f"{what} has {len(value)} characters; {longest} are allowed")
    if not empty and not value.strip():
        raise DataError(f"{what} is empty")
    return value
