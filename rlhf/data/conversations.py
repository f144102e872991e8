"""Conversations: which lists of messages can be answered, and the text that people see of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
Messages = Sequence[Mapping[str, Any]]


def transcript(messages: Messages) -> str:
    """A conversation as a text for people: the words of its turns, each under the name of who said them.

        >>> transcript([{"role": "user", "content": "Hi"}])
        'Hi'
        >>> transcript([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
        'System: Be brief.\\n\\nUser: Hi'

    Args:
        messages: turns with `role` and `content`; a single turn of the user's is its content alone.
    """
    if [turn["role"] for turn in messages] == ["user"]:
        return str(messages[0]["content"])
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in messages)


def check_messages(messages: Any) -> None:
    """Refuse what is no conversation that waits for an answer.

    A turn is a user's, an assistant's or a tool's, and the first may be the system's. Which orders of them a
    model knows is for its template to say: this refuses only what makes no sense under any.

    Args:
        messages: a list of turns, each with `role` and `content`.

    Raises:
        DataError: what is wrong with it and how to mend it, in one line.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise DataError(
            'messages are no turns; write [{"role": "user", "content": "..."}], or leave them out'
        )
    before = None
    for number, turn in enumerate(messages, start=1):
        check_turn(turn, number)
        role = turn["role"]
        if role == "system" and number > 1:
            raise DataError(f"message {number} is the system's; only the first may be; move its text there")
        if role == "tool" and before not in ("assistant", "tool"):
            raise DataError(f"message {number} is a tool's and follows no assistant turn; put the call first")
        before = role
    if before not in ("user", "tool"):
        raise DataError(
            f"the last message is the {before}'s, so nothing waits for an answer; end with the user's"
        )


def check_turn(turn: Any, number: int) -> None:
    """Refuse a turn that has no role of `ROLES` or no text.

    Args:
        turn: `role` and `content`.
        number: its place, from 1, for the message.

    Raises:
        DataError: what is wrong with it and how to mend it, in one line.
    """
    if not isinstance(turn, Mapping):
        raise DataError(f"message {number} is no object with role and content: {ascii(turn)[:40]}")
    if turn.get("role") not in ROLES:
        raise DataError(
            f"message {number} has the role {ascii(turn.get('role'))[:40]}; it must be {', '.join(ROLES)}"
        )
    if not isinstance(turn.get("content"), str):
        raise DataError(
            f"the content of message {number} is {ascii(turn.get('content'))[:40]}; it must be a text"
        )
    if not turn["content"].strip():
        raise DataError(f"message {number}, the {turn['role']}'s, is empty; fill it or leave the row out")
