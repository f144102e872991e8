"""Conversations: their text for people, and which lists of messages can be answered."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rlhf.data.conversations import as_columns, check_messages, transcript
from rlhf.data.errors import DataError


def turns(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in pairs]


def test_a_transcript_names_who_speaks_but_for_a_single_question() -> None:
    assert transcript(turns(("user", " Hi\nthere"))) == " Hi\nthere"
    assert transcript(turns(("tool", "5"))) == "Tool: 5"
    talk = turns(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "And you?"))
    assert transcript(talk) == "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: And you?"


ASKED = ("user", "Hi")


@pytest.mark.parametrize(
    "messages",
    [
        turns(ASKED),
        turns(ASKED, ASKED),
        turns(("system", "Be brief."), ASKED, ("assistant", "Hello."), ASKED),
        turns(("assistant", "Welcome."), ASKED, ("assistant", "call"), ("tool", "5"), ("tool", "6")),
    ],
)
def test_what_waits_for_an_answer_is_a_conversation(messages: list[dict[str, Any]]) -> None:
    check_messages(messages)


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([], "messages are no turns"),
        ("Hi", "messages are no turns"),
        (["Hi"], "message 1 is no object with role and content: 'Hi'"),
        (
            turns(ASKED, ("bot", "x")),
            "message 2 has the role 'bot'; it must be system, user, assistant, tool",
        ),
        (turns((None, "x")), "message 1 has the role None"),
        (turns(("user", None)), "the content of message 1 is None; it must be a text"),
        (turns(("user", ["part"])), "the content of message 1 is ['part']; it must be a text"),
        (turns(("system", " \n"), ASKED), "message 1, the system's, is empty"),
        (turns(ASKED, ("system", "x"), ASKED), "message 2 is the system's; only the first may be"),
        (turns(ASKED, ("tool", "5")), "message 2 is a tool's and follows no assistant turn"),
        (turns(ASKED, ("assistant", "Hello.")), "the last message is the assistant's, so nothing waits"),
        (turns(("system", "Be brief.")), "the last message is the system's"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_a_line(messages: Any, why: str) -> None:
    with pytest.raises(DataError, match=re.escape(why)) as refused:
        check_messages(messages)
    assert "\n" not in str(refused.value)


def as_row(row: dict[str, Any]) -> dict[str, Any]:
    return as_columns(row, ends_answered=True)


TALK = turns(("system", "Be brief."), ASKED)
SEEN = "System: Be brief.\n\nUser: Hi"


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": "c"}),
        ({"prompt": "p", "messages": None}, {"prompt": "p", "messages": None}),
        (
            {"messages": [*TALK, *turns(("assistant", "  x\n"))]},
            {"messages": TALK, "prompt": SEEN, "completion": "  x\n"},
        ),
        (
            {"messages": TALK, "prompt": "own", "completion": " x"},
            {"messages": TALK, "prompt": "own", "completion": " x"},
        ),
        (
            {"prompt": TALK, "completion": turns(("assistant", "x"))},
            {"messages": TALK, "prompt": SEEN, "completion": "x"},
        ),
        ({"prompt": TALK, "completion": "x"}, {"messages": TALK, "prompt": SEEN, "completion": "x"}),
        (
            {"messages": TALK, "completions": [turns(("assistant", "x")), "y"]},
            {"messages": TALK, "prompt": SEEN, "completions": ["x", "y"]},
        ),
        (
            {"messages": [{"role": "user", "content": "a", "tool_calls": None, "name": ""}]},
            {"messages": turns(("user", "a")), "prompt": "a"},
        ),
    ],
)
def test_conversations_become_columns(row: dict[str, Any], columns: dict[str, Any]) -> None:
    assert as_row(row) == columns


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": TALK, "messages": TALK}, "prompt and messages both are lists of messages"),
        ({"messages": "Hi"}, "messages are 'Hi'; write a list"),
        ({"messages": []}, "messages are no turns"),
        ({"prompt": []}, "messages are no turns"),
        ({"messages": [*TALK, *turns(("assistant", "x"))], "completion": "y"}, "and there is a completion"),
        (
            {"messages": TALK, "completion": turns(("user", "x"))},
            "completion is messages of user; it must be",
        ),
        (
            {"messages": TALK, "completion": turns(("assistant", "x"), ("assistant", "y"))},
            "completion is messages of assistant, assistant; it must be one",
        ),
        ({"messages": TALK, "completion": turns(("assistant", ""))}, "message 1, the assistant's, is empty"),
        (
            {"messages": [*TALK, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
            "message 3 has 'tool_calls'; only role and content are kept",
        ),
    ],
)
def test_conversations_that_do_not_fit_are_refused(row: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError, match=re.escape(why)) as refused:
        as_row(row)
    assert "\n" not in str(refused.value)


def test_only_demonstrations_may_end_with_their_answer() -> None:
    with pytest.raises(DataError, match="the last message is the assistant's"):
        as_columns({"messages": [*TALK, *turns(("assistant", "x"))]}, ends_answered=False)
