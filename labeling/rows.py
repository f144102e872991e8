"""Writing rows: texts that both databases can hold, the hash of what is shown, and lines of the audit log."""

from __future__ import annotations

import hashlib
import json
import time
from functools import partial
from typing import Any

import sqlalchemy as sa

from labeling import schema
from rlhf.data.conversations import Messages, check_messages
from rlhf.data.errors import DataError
from rlhf.data.normal_form import indented

dumps = partial(json.dumps, ensure_ascii=False, sort_keys=True)


def insert(tx: sa.Connection, table: sa.Table, values: dict[str, Any]) -> int:
    """Add a row and return its id."""
    key = tx.execute(table.insert(), values).inserted_primary_key
    assert key is not None
    return key[0]


def record(tx: sa.Connection, who: str, action: str, **detail: Any) -> None:
    """Add a line to the audit log."""
    tx.execute(schema.audit.insert().values(who=who, action=action, detail=detail, created=time.time()))


def content_hash(
    prompt: str, outputs: list[str], reference: str | None, messages: Messages | None = None
) -> str:
    """Hash of what a labeler is shown, whatever the order on the screen: 16 hex digits. Messages count where
    there are any, so that plain prompts have the hashes that they always had."""
    shown = [prompt, outputs, reference, *([messages] if messages else [])]
    return hashlib.sha256(dumps(shown).encode()).hexdigest()[:16]


def clean_prompt(prompt: str, messages: Messages | None) -> tuple[str, list[dict[str, str]] | None]:
    """A prompt that both databases can hold, and its turns where it is a conversation.

    Raises:
        DataError: no prompt, no conversation that waits for an answer, or a text that cannot be stored.
    """
    if messages is None:
        return clean(prompt, "the prompt"), None
    check_messages(messages)
    turns = [
        {"role": turn["role"], "content": clean(turn["content"], f"message {number}")}
        for number, turn in enumerate(messages, start=1)
    ]
    return clean(prompt, "the conversation"), turns


def clean_output(text: str, what: str, messages: Messages | None) -> str:
    """An output that both databases can hold. That of a conversation stays as it is, because it is the next
    turn's content; that of a plain prompt loses the blanks around it, which only join it to the prompt,
    unless it begins with an indent, as code does.

    Raises:
        DataError: see `clean`.
    """
    text = clean(text, what)
    return text if messages or indented(text) else text.strip()


def clean(value: str, what: str, longest: int = 100_000, empty: bool = False) -> str:
    """A text that both databases can hold.

    Raises:
        DataError: empty, too long, or with characters that no text column can hold.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{what} holds half of a surrogate pair; save the text as UTF-8") from None
    if "\0" in value:
        raise DataError(f"{what} holds a NUL character; remove it")
    if len(value) > longest:
        raise DataError(f"{what} has {len(value)} characters; {longest} are allowed")
    if not empty and not value.strip():
        raise DataError(f"{what} is empty")
    return value
