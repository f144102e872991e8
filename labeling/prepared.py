"""Prepared statements: compiled once for each kind of database, then run by its driver itself."""

from __future__ import annotations

import threading
from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import visitors


class Prepared:
    """A statement that is compiled once for each kind of database and then run by the driver itself.

    It is for what every judgment needs, because `Connection.execute` costs several times what the database
    does.

        WHO = Prepared(sa.select(users.c.name).where(users.c.id == sa.bindparam("number")))
        rows = WHO(tx, number=3)      # named tuples; empty where the statement returns nothing

    Args:
        statement: a SELECT, or an INSERT, UPDATE or DELETE, with or without RETURNING.
        columns: of an INSERT without values, those whose values are passed when it runs.
    """

    _once = threading.Lock()

    def __init__(self, statement: Any, columns: Sequence[str] | None = None) -> None:
        self._statement, self._columns = statement, columns
        self._compiled: dict[str, Callable[[sa.Connection, dict[str, Any]], list[Any]]] = {}

    def __call__(self, tx: sa.Connection, **values: Any) -> list[Any]:
        """Run it in a transaction; the rows that it returns."""
        run = self._compiled.get(tx.dialect.name)
        if run is None:
            with self._once:  # so that threads that arrive together compile it once
                run = self._compiled.get(tx.dialect.name) or self._compile(tx.dialect)
                self._compiled[tx.dialect.name] = run
        return run(tx, values)

    def _compile(self, dialect: sa.Dialect) -> Callable[[sa.Connection, dict[str, Any]], list[Any]]:
        # Constants go into the text, so that the one plan that PostgreSQL keeps is made for them.
        statement = visitors.cloned_traverse(self._statement, {}, {"bindparam": _as_text})
        compiled = statement.compile(
            dialect=dialect, column_keys=self._columns, compile_kwargs={"render_postcompile": True}
        )
        sql, order = str(compiled), compiled.positiontup
        binds = {name: bind for name, bind in compiled.binds.items() if not bind.literal_execute}
        defaults = {name: bind.value for name, bind in binds.items() if bind.value is not None}
        bind_types = {name: bind.type.dialect_impl(dialect) for name, bind in binds.items()}
        into_database = [
            (name, convert) for name, kind in bind_types.items() if (convert := kind.bind_processor(dialect))
        ]
        columns = list(self._statement.exported_columns)
        row = namedtuple("Row", [column.name for column in columns])  # type: ignore[misc]
        column_types = [column.type.dialect_impl(dialect) for column in columns]
        out_of_database: list[tuple[int, Any]] | None = None

        def run(tx: sa.Connection, values: dict[str, Any]) -> list[Any]:
            nonlocal out_of_database
            arguments = defaults | values
            for name, convert in into_database:
                arguments[name] = convert(arguments[name])
            cursor = tx.connection.cursor()
            cursor.execute(sql, [arguments[name] for name in order] if order else arguments)
            rows = cursor.fetchall() if columns else []
            if out_of_database is None:  # the first answer shows by its types what each column needs
                codes = [column[1] for column in cursor.description or ()]
                converters = [
                    kind.result_processor(dialect, code)
                    for kind, code in zip(column_types, codes, strict=True)
                ]
                out_of_database = [(i, convert) for i, convert in enumerate(converters) if convert]
            cursor.close()
            if out_of_database:
                rows = [list(cells) for cells in rows]
                for cells in rows:
                    for i, convert in out_of_database:
                        cells[i] = convert(cells[i])
            return [row._make(cells) for cells in rows]

        return run


def _as_text(bind: Any) -> None:
    """Render a bind parameter that has its value already as text, and let the others come later."""
    bind.literal_execute, bind.required = not bind.required, False
