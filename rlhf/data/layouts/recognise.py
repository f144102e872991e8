"""Which layout a file has, by the names and kinds of its columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts import (
    answers,
    arena,
    argilla,
    axolotl,
    chats,
    contract,
    helpsteer,
    hh,
    instructions,
    label_studio,
    oasst,
    pairs,
    pku,
    prodigy,
    shp,
    summaries,
    swift,
    webgpt,
)
from rlhf.data.layouts.layout import NARROWER, Layout, Record
from rlhf.data.layouts.turns import is_transcript, role_of

# Each is told from the others by columns that only it has, so their order does not matter.
LAYOUTS: tuple[Layout, ...] = (
    *contract.LAYOUTS,
    pairs.LAYOUT,
    hh.LAYOUT,
    *axolotl.LAYOUTS,
    instructions.LAYOUT,
    chats.LAYOUT,
    answers.LAYOUT,
    *helpsteer.LAYOUTS,
    shp.LAYOUT,
    webgpt.LAYOUT,
    *summaries.LAYOUTS,
    pku.LAYOUT,
    arena.LAYOUT,
    *oasst.LAYOUTS,
    *swift.LAYOUTS,
    *argilla.LAYOUTS,
    *label_studio.LAYOUTS,
    *prodigy.LAYOUTS,
)


def kinds(records: Sequence[Record]) -> dict[str, str]:
    """The kind of each column, over records: text, transcript (a text that tells a conversation, as hh-rlhf's
    do), number, bool, texts, numbers, messages, answered (messages that end with the assistant's), objects,
    object, list, other, or empty (nothing anywhere).

    The kind of most values counts, so that a single wrong value is refused with its row, and does not hide
    what the other rows are.
    """
    counts: dict[str, Counter[str]] = {}
    for record in records:
        for name, value in record.columns.items():
            counts.setdefault(name, Counter())[_kind(value)] += 1
    return {name: _most(seen) for name, seen in counts.items()}


def _most(seen: Counter[str]) -> str:
    del seen["empty"]
    # Where only some texts tell a conversation, they are texts. Where some of the conversations wait for an
    # answer, the others say what the column is for.
    for some, all_of_them in (("transcript", "text"), ("messages", "answered")):
        if all_of_them in seen:
            seen[all_of_them] += seen.pop(some, 0)
    return seen.most_common(1)[0][0] if seen else "empty"


def _kind(value: Any) -> str:
    if value is None or value == []:
        return "empty"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "transcript" if is_transcript(value) else "text"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, Mapping):
        return "object"
    if not isinstance(value, (list, tuple)):
        return "other"
    inside = {_kind(item) for item in value} - {"empty"}
    if inside == {"object"}:
        if not all(isinstance(item, Mapping) and _is_turn(item) for item in value):
            return "objects"
        return "answered" if role_of(value[-1]) == "assistant" else "messages"
    inside = {NARROWER.get(kind, kind) for kind in inside}
    return {frozenset(["text"]): "texts", frozenset(["number"]): "numbers"}.get(frozenset(inside), "list")


def _is_turn(item: Mapping[str, Any]) -> bool:
    return ("role" in item and ("content" in item or "tool_calls" in item)) or {
        "from",
        "value",
    } <= item.keys()


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
