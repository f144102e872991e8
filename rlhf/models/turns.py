"""The turns of a conversation: what each must have, and whether a template wrote it whole and in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf.data.errors import DataError
from rlhf.models.thinking import CLOSING, around_thinking

Turns = list[dict[str, str]]


def turns_of(messages: Any) -> Turns:
    """The turns of a row's messages.

    Raises:
        DataError: a turn without text or with more than role and content, or none that waits for an answer.
    """
    turns: Turns = []
    for number, turn in enumerate(messages, 1):
        if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str):
            raise DataError(f"turn {number} of a conversation has no text as its content; give it one")
        more = [name for name, value in turn.items() if name not in ("role", "content") and value]
        if more:
            raise DataError(
                f"turn {number} of a conversation has {', '.join(more)}; only role and content are read, "
                "so write what matters into the content"
            )
        turns.append({"role": str(turn.get("role")), "content": turn["content"]})
    if not turns or turns[-1]["role"] == "assistant":
        raise DataError("a conversation must end with a turn that the assistant answers")
    return turns


def named(turns: Turns) -> str:
    """How messages name a conversation."""
    return f"the conversation that begins {turns[0]['content'][:60]!r}"


def check_all_written(turns: Turns, probes: Turns, written: str) -> None:
    """Refuse a template that drops or moves a turn.

    Args:
        turns: a conversation.
        probes: the same roles, with texts that occur nowhere else.
        written: what the template wrote of `probes`.

    Raises:
        DataError: which turn, and how to mend it.
    """
    places = [written.find(turn["content"]) for turn in probes]
    lost = [i for i, place in enumerate(places) if place < 0]
    moved = [i for i, place in enumerate(sorted(places)) if place != places[i]]
    if not lost and not moved:
        return
    wrong = lost or [i for i in moved if turns[i]["role"] == "system"] or moved
    number, role = wrong[0] + 1, turns[wrong[0]]["role"]
    raise DataError(
        f"the chat template {'drops' if lost else 'moves'} turn {number} ({role}) of {named(turns)}; "
        f"put its text into a user turn, or take a template that writes {role} turns there"
    )


def end_of_text(turn: Mapping[str, str], written: str, at: int) -> int | None:
    """Where a turn's text ends in what a template wrote from `at` on; None if it does not stand there whole.

    Blanks around it may be missing. Thinking at the start of an answer may stand apart from the answer.
    """
    text = turn["content"]
    for part in map(str.strip, around_thinking(text)):
        start = written.find(part, at)
        if start < 0:
            return None
        at = start + len(part)
    blanks = text[len(text.rstrip()) :]
    return at + len(blanks) if written.startswith(blanks, at) else at


def changed(turns: Turns, number: int) -> DataError:
    """The error for a template that changes the text of a turn (counted from 0)."""
    turn = turns[number]
    tag = CLOSING.search(turn["content"])
    did = f"splits the text of turn {number + 1} ({turn['role']}) at {tag[0]!r}" if tag else ""
    did = did or f"changes the text of turn {number + 1} ({turn['role']})"
    mend = "take the thinking and its tags out of it" if tag else "take another template"
    return DataError(f"the chat template {did} of {named(turns)}; {mend}")
