"""Writing rows: texts that both databases can hold, the hash of what is shown, and lines of the audit log."""

from __future__ import annotations

import hashlib
import json
import time
from functools import partial
from typing import Any

import sqlalchemy as sa

from labeling import schema
from rlhf.data.errors import DataError

dumps = partial(json.dumps, ensure_ascii=False, sort_keys=True)


def insert(tx: sa.Connection, table: sa.Table, values: dict[str, Any]) -> int:
    """Add a row and return its id."""
    key = tx.execute(table.insert(), values).inserted_primary_key
    assert key is not None
    return key[0]


def record(tx: sa.Connection, who: str, action: str, **detail: Any) -> None:
    """Add a line to the audit log."""
    tx.execute(schema.audit.insert().values(who=who, action=action, detail=detail, created=time.time()))


def content_hash(prompt: str, outputs: list[str], reference: str | None) -> str:
    """Hash of what a labeler is shown, whatever the order on the screen: 16 hex digits."""
    return hashlib.sha256(dumps([prompt, outputs, reference]).encode()).hexdigest()[:16]


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
