"""A user's map of columns: what the file calls each column, or a text made of several of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.near import meant


class ColumnMap:
    """`{prompt: "question"}` takes the column `question`, `{prompt: "{title}\\n\\n{post}"}` writes a text of
    two, and `info.post` is what the column `info` has under `post`. Columns that the map does not use stay.

    A brace that is meant is written twice. An empty cell adds nothing to a text, and is counted.

    Args:
        columns: name -> the file's column, or a text with `{column}` in it.
        known: the columns of the file's first rows; a row may lack one of these, which then is empty.
        empty: gets the name of each column that was empty where a text should be made of it.

    Raises:
        DataError: a text with braces that name no column.
    """

    def __init__(
        self, columns: Mapping[str, str], known: set[str], empty: Callable[[str], None] = lambda column: None
    ) -> None:
        self._known, self._empty = known, empty
        self._plain: dict[str, str] = {}
        self._texts: dict[str, list[tuple[str, str | None]]] = {}
        for name, wanted in columns.items():
            if wanted in known or not set("{}") & set(wanted):
                self._plain[name] = wanted
            else:
                self._texts[name] = _pieces(name, wanted)
        used = [*self._plain.values(), *(column for text in self._texts.values() for _, column in text)]
        self._used = {column if column in known else column.split(".")[0] for column in used if column}

    @property
    def hidden(self) -> set[str]:
        """The file's own columns to which the map gives another meaning."""
        return ((self._plain.keys() | self._texts.keys()) & self._known) - self._used

    def __call__(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of a row, mapped.

        Raises:
            DataError: the map names a column that the file does not have, or makes a text of a list.
        """
        new = {name: value for name, value in columns.items() if name not in self._used}
        new |= {name: self._take(columns, column) for name, column in self._plain.items()}
        for name, pieces in self._texts.items():
            values = [(before, column and self._take(columns, column)) for before, column in pieces]
            named = [column for _, column in pieces if column]
            if named and all(self._take(columns, column) is None for column in named):
                new[name] = None
                continue
            for (_, column), (_, value) in zip(pieces, values, strict=True):
                if isinstance(value, (list, dict)):
                    raise DataError(
                        f"ingest.columns makes a text of {column!r}, which is a {type(value).__name__}"
                    )
                if column and value is None:
                    self._empty(column)
            new[name] = "".join(before + ("" if value is None else str(value)) for before, value in values)
        return new

    def _take(self, columns: Mapping[str, Any], column: str) -> Any:
        if column in columns:
            return columns[column]
        if column in self._known:
            return None
        value: Any = columns
        for step in column.split("."):
            if isinstance(value, Mapping) and step in value:
                value = value[step]
            elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
                value = value[int(step)]
            elif value is not columns or step in self._known:
                return None
            else:
                raise DataError(
                    f"ingest.columns names {column!r}, but the columns are {', '.join(columns)}"
                    f"{meant(column, columns)}; where another file has it, list the files in ingest.sources, "
                    "each with its columns"
                ) from None
        return value


def _pieces(name: str, template: str) -> list[tuple[str, str | None]]:
    """A template as (text before, column); the last may have no column."""
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise DataError(
            f"ingest.columns: {name}: {template!r}: {error}; write a brace that is meant twice"
        ) from None
    for _, column, spec, conversion in pieces:
        if column == "" or spec or conversion:
            raise DataError(
                f"ingest.columns: {name}: {template!r}: between braces stands the name of a column and "
                "nothing else"
            )
    return [(before, column) for before, column, _, _ in pieces]
