"""Opening the label store: its address, its tables, and transactions that read or write.

    store = Store("sqlite:////path/labels.db")      # or postgresql://user@host/name
    with store.write() as tx: ...                     # one short transaction
    with store.read() as tx: ...
    store.together(lambda tx: ...)                    # a write that shares its wait for the disk with others

On SQLite, writers take turns behind one lock of this process, because SQLite's own waiting is by polling; its
`busy_timeout` covers other processes. Those who wait for their turn with `together` share a transaction
(`labeling.sqlite.GroupCommit`). On PostgreSQL a transaction gives its connection back before its commit is on
disk, and then waits for that together with the others (`labeling.postgresql.Flusher`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from labeling import postgresql, sqlite
from labeling.rows import dumps
from labeling.sqlite import Result
from rlhf.data.errors import DataError
from rlhf.data.private import private_file

VERSION_TABLE = "feedback_version"  # named as the package was when the first stores were made


class Store:
    """A label store in a database that has the newest tables.

    Args:
        url: SQLAlchemy URL of SQLite or PostgreSQL.
        create: make the tables where there are none; otherwise a store that lacks them is refused. Tables of
            an older version are upgraded either way.

    Raises:
        DataError: the URL cannot be understood or reached, or the tables are missing or of a newer version.
    """

    def __init__(self, url: str, create: bool = True) -> None:
        address = _understood(url)
        self.url = _shown(address.render_as_string(hide_password=True))
        self.sqlite = address.get_backend_name() == "sqlite"
        if not self.sqlite and address.get_backend_name() != "postgresql":
            raise DataError(f"{self.url}: the label store runs on SQLite or PostgreSQL")
        if self.sqlite and address.database and address.database != ":memory:":
            if not create and not Path(address.database).exists():
                raise DataError(f"{address.database}: no label store; `python -m labeling init` makes one")
            try:
                Path(address.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                private_file(Path(address.database))
            except OSError as error:
                raise DataError(
                    f"{address.database}: cannot open the label store: {error.strerror}"
                ) from None
        # Last in, first out, because the connection used last has what it read in its cache.
        options: dict[str, Any] = {"pool_size": 16, "max_overflow": 32, "pool_use_lifo": True}
        if not self.sqlite:
            # Few connections: a Python process keeps no more of them busy, and many slow each other down.
            options |= {"pool_size": 4, "max_overflow": 0}
            options["connect_args"] = {"connect_timeout": 10}
        self.engine = sa.create_engine(address, json_serializer=dumps, **options)
        self._turn = threading.Lock()
        self._group = sqlite.GroupCommit(self._turn, self._writing)
        if self.sqlite:
            sa.event.listen(self.engine, "connect", sqlite.configure)
            sa.event.listen(self.engine, "begin", sqlite.begin)
        else:
            sa.event.listen(self.engine, "connect", postgresql.configure)
            sa.event.listen(self.engine, "checkout", partial(postgresql.check_alive, self.engine.dialect))
        try:
            self._flusher = None if self.sqlite else postgresql.Flusher(self.engine)
            self._check(create)
        except (OperationalError, DatabaseError) as error:
            reason = str(error.orig).strip().splitlines()[0]
            raise DataError(f"{self.url}: cannot open the label store: {reason}") from None

    def _check(self, create: bool) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
        scripts = ScriptDirectory.from_config(config)
        with self._turn_for_sqlite(), self.engine.connect() as connection:
            present = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
            revision = present.get_current_revision()
            connection.rollback()  # the upgrade begins as a writer
            if revision is None and not create:
                raise DataError(f"{self.url}: no label store; `python -m labeling init` makes one")
            if revision not in (None, *(script.revision for script in scripts.walk_revisions())):
                raise DataError(
                    f"{self.url}: a newer version of this project made the label store (its tables are of "
                    f"version {revision}); use that one"
                )
            if revision != scripts.get_current_head():
                connection = connection.execution_options(immediate=True)
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                connection.commit()
                if self._flusher:
                    self._flusher.flush()

    def _turn_for_sqlite(self) -> AbstractContextManager[Any]:
        return self._turn if self.sqlite else nullcontext()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that writes: committed at the end, rolled back by an exception. Keep it short."""
        with self._turn_for_sqlite(), self._writing() as tx:
            yield tx

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        flusher = self._live_flusher()
        with self.engine.connect() as connection:
            if self.sqlite:
                connection = connection.execution_options(immediate=True)
            with connection.begin():
                yield connection
        if flusher:
            flusher.flush()

    def _live_flusher(self) -> postgresql.Flusher | None:
        """A flusher that is open before the transaction begins; a new one if PostgreSQL ended the last."""
        if self._flusher:
            with self._turn:
                if not self._flusher.alive():
                    self._flusher = postgresql.Flusher(self.engine)
        return self._flusher

    def together(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Run `work(tx)` in a transaction that writes; its result, once that is stored.

        On SQLite it shares the transaction with all who wait at that moment. An exception takes back what its
        own work did and nothing else.
        """
        if self.sqlite:
            return self._group.run(work)
        with self.write() as tx:
            return work(tx)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads, from one snapshot."""
        with self.engine.connect() as connection:
            if not self.sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close the connections."""
        if self._flusher:
            self._flusher.close()
        self.engine.dispose()


def _shown(url: str) -> str:
    """A URL without the password that its query may hold."""
    return re.sub("(?<=password=)[^&]*", "***", url, flags=re.IGNORECASE)


def _understood(url: str) -> sa.URL:
    """The parts of a URL, with the driver for PostgreSQL that this project installs."""
    url = url.replace("postgres://", "postgresql://", 1)
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        return sa.make_url(url)
    except (ArgumentError, ValueError):  # the latter of a port that is no number
        # What cannot be read may hold a password anywhere.
        shown = url if "@" not in url and "password" not in url.lower() else f"{url.partition(':')[0]}:***"
        raise DataError(
            f"{shown!r} is no database URL; use sqlite:////path/file.db or postgresql://user@host/name"
        ) from None
