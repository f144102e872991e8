"""Turns of conversations as other tools write them: their names for roles, their shapes of content."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from rlhf.data.conversations import as_columns
from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Notes

Turns = list[dict[str, str]]

# What tools call the speakers, and what the contracts call them.
ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
_KEYS = ("role", "content", "from", "value", "speaker", "text", "tool_calls", "function_call")
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def role_of(turn: Mapping[str, Any]) -> str | None:
    """The contracts' name of who says a turn; None where nobody known does."""
    return ROLES.get(str(turn.get("role") or turn.get("from") or turn.get("speaker")).lower())


def turns_of(value: Any, where: str, notes: Notes) -> Turns:
    """Turns as `role` and `content`, whatever their source calls both.

    Keys beside them are counted as passed over; calls of tools without words become the content, as JSON.

    Args:
        value: a list of `{role, content}`, `{from, value}` or `{speaker, text}`.
        where: the record, for the notes.
        notes: gets what is not kept.

    Raises:
        DataError: no list of turns, a role that is none, or content that is no text.
    """
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DataError(f"{ascii(value)[:60]} are no turns; write a list of role and content")
    turns: Turns = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, Mapping):
            raise DataError(f"message {number} is {ascii(turn)[:40]}; write role and content")
        role = role_of(turn)
        if role is None:
            said = turn.get("role", turn.get("from", turn.get("speaker")))
            raise DataError(
                f"message {number} has the role {ascii(said)[:40]}; known are {', '.join(sorted(ROLES))}"
            )
        content = _content(turn.get("content", turn.get("value", turn.get("text"))), number)
        calls = turn.get("tool_calls") or turn.get("function_call")
        if calls:
            notes.say("calls of tools are read as JSON in the content of their turns")
            content = "\n".join(filter(None, [content, json.dumps(calls, ensure_ascii=False)]))
        for key, beside in turn.items():
            if key not in _KEYS and beside not in (None, "", [], {}):
                notes.pass_over(f"keys {ascii(key)[:40]} of turns", where, beside)
        if role == "system" and turns and all(said["role"] == "system" for said in turns):
            notes.say("several turns of the system at the beginning are read as one")
            turns[-1]["content"] += f"\n\n{content}"
            continue
        turns.append({"role": role, "content": content})
    return turns


def _content(content: Any, number: int) -> str:
    if content is None:
        return ""
    if isinstance(content, list):
        texts: list[str] = []
        for part in content:
            text = part.get("text") if isinstance(part, Mapping) else part
            if not isinstance(text, str):
                raise DataError(f"message {number} holds something other than text; only text can be read")
            texts.append(text)
        return "\n".join(texts)
    if not isinstance(content, str):
        raise DataError(f"the content of message {number} is {ascii(content)[:40]}; it must be a text")
    return content


def asked(value: Any, where: str, notes: Notes, system: Any = None, column: str = "prompt") -> dict[str, Any]:
    """The columns `prompt` and `messages` of a prompt that is a text or turns.

    Args:
        value: the prompt.
        where, notes: as for `turns_of`.
        system: the system's words, where they stand in a column of their own; a text then becomes turns.
        column: the prompt's, for messages.

    Raises:
        DataError: neither a text nor turns that wait for an answer.
    """
    if isinstance(value, str) and not system:
        return {"prompt": value}
    turns = [{"role": "user", "content": value}] if isinstance(value, str) else None
    if turns is None:
        if value is None or not isinstance(value, (list, tuple, Mapping)):
            raise DataError(f"column {column!r} is {ascii(value)[:60]}; it must be a text or turns")
        turns = turns_of(value, where, notes)
    if system:
        turns = [{"role": "system", "content": str(system)}, *turns]
    return as_columns({"messages": turns}, ends_answered=False)


def in_transcript(text: str) -> Turns | None:
    """The turns of a text in which "Human:" and "Assistant:" open paragraphs, as those of hh-rlhf do; what
    stands before the first is the system's. None where the text has no such paragraphs.

        >>> in_transcript("\\n\\nHuman: Hi\\n\\nAssistant: Hello. Human: is a word.")[1]
        {'role': 'assistant', 'content': 'Hello. Human: is a word.'}
    """
    marks = list(_TURN.finditer(text))
    if not marks:
        return None
    front = text[: marks[0].start()].strip().removeprefix("System:").strip()
    turns = [{"role": "system", "content": front}] if front else []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=True):
        said = text[mark.end() : end]
        role = "user" if mark[1] == "Human" else "assistant"
        turns.append({"role": role, "content": said.removeprefix(" ")})
    return turns


def is_transcript(text: str) -> bool:
    """Whether a text tells a conversation as hh-rlhf does: a paragraph of each speaker."""
    return (
        "Assistant:" in text
        and "Human:" in text
        and {"user", "assistant"} <= {turn["role"] for turn in in_transcript(text) or ()}
    )


def parted(conversations: Sequence[Turns], notes: Notes) -> tuple[dict[str, Any], list[str]]:
    """What conversations have in common, as prompt, and what each goes on with, as answers.

    An answer of several turns is the text of these turns: nothing of it is lost, and nothing of it is the
    prompt of the others.

    Raises:
        DataError: they differ from the start, or one has no answer.
    """
    shortest = min(map(len, conversations))
    together = list(zip(*(talk[:shortest] for talk in conversations), strict=True))
    shared = len(list(takewhile(lambda turns: all(turn == turns[0] for turn in turns), together)))
    while shared and (
        shared == shortest or any(talk[shared]["role"] != "assistant" for talk in conversations)
    ):
        shared -= 1
    if not shared or any(talk[shared]["role"] != "assistant" for talk in conversations):
        raise DataError("the conversations have no prompt in common; each must answer the same one")
    answers = []
    for talk in conversations:
        first, *later = talk[shared:]
        if later:
            notes.say("answers that go on over several turns are read as the text of these turns")
        told = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in later]
        answers.append("\n\n".join([first["content"], *told]))
    return as_columns({"messages": conversations[0][:shared]}, ends_answered=False), answers
