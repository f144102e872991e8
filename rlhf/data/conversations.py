"""Conversations: which lists of messages can be answered, and the text that people see of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


def speaker(role: str) -> str:
    """Who says a turn, for people. A role that is none of `ROLES` is quoted, so that no data can pass off a
    turn of its own making as the system's or a user's."""
    return role.capitalize() if role in ROLES else f"Role “{role}”"


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


def as_columns(row: dict[str, Any], ends_answered: bool) -> dict[str, Any]:
    """A user's row with its conversation in the columns of the contracts, and its answers as texts.

    A prompt may be a list of messages, and an answer a list with one message of the assistant's. Messages
    without a prompt text are seen as their transcript. A row without messages comes back as it is.

        >>> hi = {"role": "user", "content": "Hi"}
        >>> as_columns({"messages": [hi, {"role": "assistant", "content": "Hello."}]}, True)["completion"]
        'Hello.'

    Args:
        row: column -> value.
        ends_answered: whether messages may end with the assistant's, which then is the completion.

    Raises:
        DataError: messages that make no sense; the line does not name the row.
    """
    row = dict(row)
    if isinstance(row.get("prompt"), list):
        if row.get("messages") is not None:
            raise DataError("prompt and messages both are lists of messages; keep one of them")
        row["messages"] = row.pop("prompt")
    for column in ("completion", "reference", "output"):
        row |= {column: _answer(row[column], column)} if column in row else {}
    if isinstance(row.get("completions"), list):
        row["completions"] = [_answer(text, "completions") for text in row["completions"]]
    if row.get("messages") is None:
        return row
    if not isinstance(row["messages"], list):
        raise DataError(f"messages are {ascii(row['messages'])[:40]}; write a list of role and content")
    turns = [_turn(turn, number) for number, turn in enumerate(row["messages"], start=1)]
    if ends_answered and turns and turns[-1]["role"] == "assistant":
        if row.get("completion") is not None:
            raise DataError(
                "the messages end with the assistant's, and there is a completion; keep one of them"
            )
        row["completion"] = turns.pop()["content"]
    check_messages(turns)
    row["messages"] = turns
    if row.get("prompt") is None:
        row["prompt"] = transcript(turns)
    return row


def _turn(turn: Any, number: int) -> dict[str, Any]:
    """A user's message as role and content; what else it says cannot be kept, so it is refused."""
    if isinstance(turn, Mapping):
        for key, value in turn.items():
            if key not in ("role", "content") and value not in (None, "", [], {}):
                raise DataError(
                    f"message {number} has {ascii(key)[:40]}; only role and content are kept, so leave it "
                    "out or write what it says into the content"
                )
    check_turn(turn, number)
    return {"role": turn["role"], "content": turn["content"]}


def _answer(answer: Any, column: str) -> Any:
    """An answer that is written as a list with one message, as its text; anything else as it is."""
    if not (isinstance(answer, list) and answer and isinstance(answer[0], Mapping)):
        return answer
    turn = _turn(answer[0], 1)
    if len(answer) > 1 or turn["role"] != "assistant":
        roles = ", ".join(str(turn.get("role")) for turn in answer)
        raise DataError(
            f"{column} is messages of {roles[:60]}; it must be one of the assistant's, the turns before it "
            "belong into messages"
        )
    return turn["content"]


class PromptRows:
    """Rows by the text of their prompt, for what knows prompts by their text alone, such as a judge.

    A text stands for one conversation (`tasks/prepare.py` refuses anything else).

    Args:
        rows: with `prompt` and `messages`.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._messages = {row["prompt"]: row["messages"] for row in rows if row.get("messages")}

    def of(self, prompts: Iterable[str]) -> list[dict[str, Any]]:
        """A row for each prompt; one that is not known is plain text."""
        return [{"prompt": prompt, "messages": self._messages.get(prompt)} for prompt in prompts]
