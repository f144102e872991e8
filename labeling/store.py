"""Opening the label store: the engine, migrations, transactions, the audit log.

    store = Store("sqlite:////path/labels.db")      # or postgresql://user@host/name
    with store.write() as tx: ...                     # one short transaction
    with store.read() as tx: ...
    store.together(lambda tx: ...)                    # a write that shares its commit with others

SQLite runs in WAL mode with synchronous=FULL: what was acknowledged survives SIGKILL and power loss. Its
writers take turns behind one lock of this process, because SQLite's own waiting is by polling; `busy_timeout`
covers other processes. Those who wait for their turn with `together` go in one transaction, so that they wait
for the disk once and not one after the other (group commit). On PostgreSQL a transaction gives its connection
back before its commit is on disk, and then waits for that together with the others (`_Flusher`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import select
import threading
import time
from collections import deque, namedtuple
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import ArgumentError, DatabaseError, DisconnectionError, OperationalError
from sqlalchemy.sql import visitors

from labeling import schema
from rlhf.data.errors import DataError

BUSY_MS = 15_000
PING_AFTER = 5.0  # seconds that a connection to PostgreSQL rested
CACHE_KIB = 8192  # of a connection to SQLite, whose own default is 2,000
Result = TypeVar("Result")
dumps = partial(json.dumps, ensure_ascii=False, sort_keys=True)


class Store:
    """A label store in a database that has the newest tables.

    Args:
        url: SQLAlchemy URL of SQLite or PostgreSQL.
        create: make or upgrade the tables; otherwise a store that lacks them is refused.

    Raises:
        DataError: the URL cannot be understood or reached, or the tables are missing or of another version.
    """

    def __init__(self, url: str, create: bool = True) -> None:
        url = url.replace("postgres://", "postgresql://", 1)
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
                raise DataError(f"{parsed.database}: no label store; `python -m labeling init` makes one")
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        # last in, first out: the connection used last has what it read in its cache
        options: dict[str, Any] = {"pool_size": 16, "max_overflow": 32, "pool_use_lifo": True}
        if not self.sqlite:
            # few: one Python process keeps no more of them busy, and many at once only slow each other down
            options |= {"pool_size": 4, "max_overflow": 0}
            options["connect_args"] = {"connect_timeout": 10}
        self.engine = sa.create_engine(parsed, json_serializer=dumps, **options)
        self._turn = threading.Lock()
        self._waiting: deque[_Job] = deque()
        if self.sqlite:
            sa.event.listen(self.engine, "connect", _sqlite_settings)
            sa.event.listen(self.engine, "begin", _sqlite_begin)
        else:
            sa.event.listen(self.engine, "connect", _postgres_settings)
            sa.event.listen(self.engine, "checkout", partial(_check_alive, self.engine.dialect))
        try:
            self._flusher = None if self.sqlite else _Flusher(self.engine)
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
                if self._flusher:
                    self._flusher.flush()
            elif not sa.inspect(connection).has_table("labels"):
                raise DataError(f"{self.url}: no label store; `python -m labeling init` makes one")

    def _turn_for_sqlite(self) -> Any:
        return self._turn if self.sqlite else nullcontext()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that writes: committed at the end, rolled back by an exception. Keep it short."""
        with self._turn_for_sqlite(), self._writing() as tx:
            yield tx

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        flusher = self._flusher_now()
        with self.engine.connect() as connection:
            if self.sqlite:
                connection = connection.execution_options(immediate=True)
            with connection.begin():
                yield connection
        if flusher:
            flusher.flush()

    def _flusher_now(self) -> _Flusher | None:
        """One that is there before the transaction begins; a new one if PostgreSQL ended the last."""
        if self._flusher:
            with self._turn:
                if not self._flusher.alive():
                    self._flusher = _Flusher(self.engine)
        return self._flusher

    def together(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Run `work(tx)` in a transaction that writes and return its result once that is stored.

        On SQLite it shares the transaction with all who wait at that moment, each behind a savepoint, so that
        an exception takes back what its own work did and nothing else.
        """
        if not self.sqlite:
            with self.write() as tx:
                return work(tx)
        job = _Job(work)
        self._waiting.append(job)
        with self._turn:
            if not job.done:
                self._do_waiting()
        if job.error:
            raise job.error
        return job.result

    def _do_waiting(self) -> None:
        jobs = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            with self._writing() as tx:
                cursor = tx.connection.cursor()
                for job in jobs:
                    cursor.execute("SAVEPOINT job")
                    try:
                        job.result = job.work(tx)
                    except Exception as error:
                        job.error = error
                        cursor.execute("ROLLBACK TO job")
                    cursor.execute("RELEASE job")
        except BaseException as error:  # the transaction failed: nothing of it is stored
            for job in jobs:
                job.error = error
        for job in jobs:
            job.done = True

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


class _Flusher:
    """Waits until what was committed is on PostgreSQL's disk, once for all who wait at that moment.

    With `synchronous_commit` a transaction keeps its connection while the disk works, and the few connections
    of `Store` carry fewer judgments than people make as soon as an fsync takes 10 ms. So they commit without
    waiting (`_postgres_settings`), and this connection, which waits as the server is set up to, then commits
    a message that goes into the write-ahead log behind all of them. It vouches only for what began while it
    was open: a server that crashed ended it as well, and with it `flush` of all whose commits may be lost.
    """

    def __init__(self, engine: sa.Engine) -> None:
        # the driver's own, because SQLAlchemy's may silently be another one after an error
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
            psycopg.Error: that is not known; the server ended the connection.
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


@dataclass
class _Job:
    """What waits in `Store.together` for its turn."""

    work: Callable[[sa.Connection], Any]
    result: Any = None
    error: BaseException | None = None
    done: bool = False


def _sqlite_settings(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # no BEGIN of the driver's own: `_sqlite_begin` says which one
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    cursor.close()


def _sqlite_begin(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.connection.cursor().execute("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _postgres_settings(connection: Any, _: Any) -> None:
    """Keep the plan of a statement that is run again and again, because to plan one took longer than to run
    it; and leave the waiting for the disk to `_Flusher`."""
    connection.execute("SET plan_cache_mode = force_generic_plan")
    connection.execute("SET synchronous_commit = off")
    connection.commit()


def _check_alive(dialect: sa.Dialect, connection: Any, record: Any, _: Any) -> None:
    """Let the pool make another connection where this one is dead.

    The pool's own ping would be one more round trip to the server for every judgment.
    """
    now = time.monotonic()
    rested = now - record.info.get("used", now)
    record.info["used"] = now
    if not _answers(dialect, connection, rested):
        raise DisconnectionError


def _answers(dialect: Any, connection: Any, rested: float) -> bool:
    """Ping a connection that rested for so many seconds, or on which something arrived unasked: PostgreSQL
    saying that it stops."""
    try:
        arrived = select.poll()
        arrived.register(connection.fileno(), select.POLLIN)
        if rested > PING_AFTER or arrived.poll(0):
            dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error:
        return False
    return True


class Prepared:
    """A statement that is compiled once a kind of database and then run by the driver itself.

    For what every judgment needs: `Connection.execute` costs several times what the database does.

        WHO = Prepared(sa.select(users.c.name).where(users.c.id == sa.bindparam("number")))
        rows = WHO(tx, number=3)      # named tuples; of a statement that returns nothing, none

    Args:
        statement: a SELECT, or an INSERT, UPDATE or DELETE, with or without RETURNING.
        columns: of an INSERT without values, those that are given when it runs.
    """

    _once = threading.Lock()

    def __init__(self, statement: Any, columns: Sequence[str] | None = None) -> None:
        self._statement, self._columns = statement, columns
        self._compiled: dict[str, Callable[[sa.Connection, dict[str, Any]], list[Any]]] = {}

    def __call__(self, tx: sa.Connection, **values: Any) -> list[Any]:
        """Run it in a transaction; the rows that it returns."""
        run = self._compiled.get(tx.dialect.name)
        if run is None:
            with self._once:  # not by every thread that is there first
                run = self._compiled.get(tx.dialect.name) or self._compile(tx.dialect)
                self._compiled[tx.dialect.name] = run
        return run(tx, values)

    def _compile(self, dialect: sa.Dialect) -> Callable[[sa.Connection, dict[str, Any]], list[Any]]:
        # what is the same each time stands in the text, so that PostgreSQL's one plan for all times knows it
        statement = visitors.cloned_traverse(self._statement, {}, {"bindparam": _as_text})
        compiled = statement.compile(
            dialect=dialect, column_keys=self._columns, compile_kwargs={"render_postcompile": True}
        )
        sql, order = str(compiled), compiled.positiontup
        left = {name: bind for name, bind in compiled.binds.items() if not bind.literal_execute}
        known = {name: bind.value for name, bind in left.items() if bind.value is not None}
        binds = {name: bind.type.dialect_impl(dialect) for name, bind in left.items()}
        into = [(name, f) for name, kind in binds.items() if (f := kind.bind_processor(dialect))]
        columns = list(self._statement.exported_columns)
        row = namedtuple("Row", [column.name for column in columns])  # type: ignore[misc]
        kinds = [column.type.dialect_impl(dialect) for column in columns]
        out: list[tuple[int, Any]] | None = None

        def run(tx: sa.Connection, values: dict[str, Any]) -> list[Any]:
            nonlocal out
            given = known | values
            for name, convert in into:
                given[name] = convert(given[name])
            cursor = tx.connection.cursor()
            cursor.execute(sql, [given[name] for name in order] if order else given)
            found = cursor.fetchall() if columns else []
            if out is None:  # which conversion a column needs is known by the types of the first answer
                codes = [column[1] for column in cursor.description or ()]
                made = [kind.result_processor(dialect, code) for kind, code in zip(kinds, codes, strict=True)]
                out = [(i, convert) for i, convert in enumerate(made) if convert]
            cursor.close()
            if out:
                found = [list(line) for line in found]
                for line in found:
                    for i, convert in out:
                        line[i] = convert(line[i])
            return [row._make(line) for line in found]

        return run


def _as_text(bind: Any) -> None:
    """Render a bind parameter that has its value already as text, and let the others come later."""
    bind.literal_execute, bind.required = not bind.required, False


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
