"""Which layout a file has, by the names and kinds of its columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts import contract, pairs
from rlhf.data.layouts.layout import Layout, Record

# Each is told from the others by columns that only it has, so their order does not matter.
LAYOUTS: tuple[Layout, ...] = (*contract.LAYOUTS, pairs.LAYOUT)


def kinds(records: Sequence[Record]) -> dict[str, str]:
    """The kind of each column, over records: text, number, bool, texts, numbers, messages, objects, object,
    list, empty (null everywhere), or mixed."""
    columns: dict[str, str] = {}
    for record in records:
        for name, value in record.columns.items():
            kind, before = _kind(value), columns.get(name, "empty")
            columns[name] = kind if before == "empty" else before if kind in ("empty", before) else "mixed"
    return columns


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "text"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, Mapping):
        return "object"
    if not isinstance(value, (list, tuple)):
        return "other"
    inside = {_kind(item) for item in value} - {"empty"}
    if inside == {"object"}:
        turns = all(isinstance(item, Mapping) and _is_turn(item) for item in value)
        return "messages" if turns else "objects"
    return {frozenset(["text"]): "texts", frozenset(["number"]): "numbers"}.get(frozenset(inside), "list")


def _is_turn(item: Mapping[str, Any]) -> bool:
    return {"role", "content"} <= item.keys() or {"from", "value"} <= item.keys()


def recognise(columns: Mapping[str, str], layout: str | None = None) -> Layout:
    """The layout of columns.

    Args:
        columns: name -> kind.
        layout: its name, where the user says it.

    Raises:
        DataError: no layout of that name; none fits, or several do.
    """
    if layout is not None:
        named = next((known for known in LAYOUTS if known.name == layout), None)
        if named is None:
            raise DataError(f"there is no layout {layout!r}; there are {_names(LAYOUTS)}")
        return named
    fitting = [known for known in LAYOUTS if known.fits(columns)]
    if len(fitting) == 1:
        return fitting[0]
    shown = ", ".join(columns) or "(none)"
    if fitting:
        raise DataError(f"columns {shown}: two layouts fit, {_names(fitting)}; say which in ingest.layout")
    raise DataError(
        f"columns {shown}: no known layout; map them in ingest.columns, such as "
        "{prompt: question, chosen: better_answer, rejected: other_answer}; docs/data.md lists the layouts"
    )


def _names(layouts: Iterable[Layout]) -> str:
    return ", ".join(layout.name for layout in layouts)
