"""Trees of messages (OpenAssistant; Köpf et al. 2023): replies to one message, ranked among each other.

The trees come as rows of messages with the ids of their parents, or nested, each message with its replies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, text_of
from rlhf.data.layouts.turns import Turns, asked, role_of
from rlhf.data.layouts.values import by_key, comparison, filled, number_of

Message = Mapping[str, Any]


def _fits_rows(columns: Mapping[str, str]) -> bool:
    return {"message_id", "parent_id", "text", "role"} <= columns.keys()


def _fits_nested(columns: Mapping[str, str]) -> bool:
    return columns.get("prompt") == "object" and "message_tree_id" in columns


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    """The messages of a tree may stand anywhere in the file, so the whole of it is held."""
    records = list(records)
    parents = {r.columns.get("message_id"): r.columns.get("parent_id") for r in records}

    def root(columns: Mapping[str, Any]) -> Any:
        if filled(columns.get("message_tree_id")):
            return columns["message_tree_id"]
        name, seen = columns.get("message_id"), set()
        while filled(parents.get(name)) and name not in seen:
            seen.add(name)
            name = parents[name]
        return name

    yield from by_key(records, root)


def _rows_rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    messages = {record.columns["message_id"]: record.columns for record in records}
    replies: dict[Any, list[Message]] = {}
    for record in records:
        parent = record.columns.get("parent_id")
        if filled(parent):
            if parent not in messages:
                raise DataError(
                    f"the parent {ascii(parent)[:40]} of a message is not in the file; add its row"
                )
            replies.setdefault(parent, []).append(record.columns)
    wheres = {id(record.columns): record.where for record in records}
    for parent, together in replies.items():
        path: list[Message] = []
        name = parent
        while filled(name) and len(path) <= len(messages):
            path.insert(0, messages[name])
            name = messages[name].get("parent_id")
        if len(path) > len(messages):
            raise DataError(f"message {ascii(parent)[:40]} is its own parent")
        yield from _siblings(path, together, options, wheres[id(together[0])], notes)


def _rows_nested(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        yield from _below([record.columns["prompt"]], options, record.where, notes)


def _below(path: list[Message], options: Options, where: str, notes: Notes) -> Iterator[Item]:
    replies = path[-1].get("replies") or []
    yield from _siblings(path, replies, options, where, notes)
    for reply in replies:
        yield from _below([*path, reply], options, where, notes)


def _siblings(
    path: Sequence[Message], replies: Sequence[Message], options: Options, where: str, notes: Notes
) -> Iterator[Item]:
    """The comparison of replies to the last message of a path."""
    if not replies:
        return
    told = [reply for reply in replies if not reply.get("deleted")]
    for reply in replies:
        if reply.get("deleted"):
            notes.pass_over("deleted messages", where, reply.get("text"))
    answers = [reply for reply in told if role_of(reply) == "assistant"]
    ranked = [reply for reply in answers if filled(reply.get("rank"))]
    for reply in answers:
        if reply not in ranked:
            notes.pass_over("answers without a rank", where, reply.get("text"))
    for reply in told:
        if role_of(reply) != "assistant" and filled(reply.get("rank")):
            notes.pass_over("ranks of messages by users", where, reply.get("text"))
    if len(ranked) == 1:
        notes.pass_over("answers that are ranked alone", where, ranked[0].get("text"))
    if len(ranked) < 2:
        return
    ranks = [number_of(reply["rank"], "rank") for reply in ranked]
    best = options.direction or "lower"
    notes.say(f"rank: the {best} is the better (ingest.direction says otherwise)")
    split = path[0].get("split")
    yield comparison(
        asked(_turns(path), where, notes, column="text"),
        [text_of(reply.get("text"), "text") for reply in ranked],
        ranking=[rank if best == "lower" else -rank for rank in ranks],
        split=split if filled(split) else None,
    )


def _turns(path: Sequence[Message]) -> Turns:
    return [
        {"role": str(message.get("role")), "content": text_of(message.get("text"), "text")}
        for message in path
    ]


LAYOUTS = (
    Layout(
        name="message-trees",
        about="messages with their parents, ranked among their siblings (OpenAssistant)",
        columns="`message_id`, `parent_id`, `text`, `role`, `rank`, `message_tree_id`",
        fits=_fits_rows,
        rows=_rows_rows,
        groups=_groups,
        own=frozenset(
            ("message_id", "parent_id", "text", "role", "rank", "message_tree_id", "deleted", "split")
        ),
    ),
    Layout(
        name="nested-trees",
        about="trees of messages, each with its replies (OpenAssistant)",
        columns="`message_tree_id`, `prompt{text, role, replies[{text, role, rank, replies}]}`",
        fits=_fits_nested,
        rows=_rows_nested,
        own=frozenset(("message_tree_id", "prompt")),
    ),
)
