"""What kind of values the columns of a file hold: by this, and by their names, a layout is recognised."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.data.layouts.layout import NARROWER, Record
from rlhf.data.layouts.thumb_words import says_thumb
from rlhf.data.layouts.turns import is_transcript, role_of

_NUMERAL = re.compile(r"\s*[+-]?[0-9]+([.,][0-9]+)?\s*")


def kinds(records: Sequence[Record]) -> dict[str, str]:
    """The kind of each column, over records.

    Kinds are text, numeral (a text that is a number, as in tables), thumb (a text such as `up`), transcript
    (a text that tells a conversation, as hh-rlhf's do), number, bool, texts, numerals (texts that are
    numbers), numbers, messages, answered (messages that end with the assistant's), objects, object, list,
    other, or empty (nothing anywhere).

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
    # Where only some texts are numbers, they are texts. Where some of the conversations wait for an answer,
    # the others say what the column is for.
    broader = (("numeral", "text"), ("thumb", "text"), ("numerals", "texts"), ("messages", "answered"))
    for some, all_of_them in broader:
        if all_of_them in seen:
            seen[all_of_them] += seen.pop(some, 0)
    return seen.most_common(1)[0][0] if seen else "empty"


def _kind(value: Any) -> str:
    if value is None or value == [] or value == "":
        return "empty"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        if _NUMERAL.fullmatch(value):
            return "numeral"
        if says_thumb(value):
            return "thumb"
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
    if inside == {"numeral"}:
        return "numerals"
    inside = {NARROWER.get(kind, kind) for kind in inside}
    return {frozenset(["text"]): "texts", frozenset(["number"]): "numbers"}.get(frozenset(inside), "list")


def _is_turn(item: Mapping[str, Any]) -> bool:
    return (
        ("role" in item and ("content" in item or "tool_calls" in item))
        or {"from", "value"} <= item.keys()
        or {"speaker", "text"} <= item.keys()
    )
