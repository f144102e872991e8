"""Prompts that are plain text in some rows and a lone turn of the user's in others: the same question.

People bring pairs as conversations and demonstrations as texts, or the other way round. A template writes the
two differently, so that one of them has to win: the conversation says more, and the text becomes its turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from rlhf.data.contracts import TABLES
from rlhf.data.table import Table, TableWriter, read_table

_ASKED = ("prompts", "demonstrations", "comparisons", "votes")


def in_turns(folder: Path) -> int:
    """Give plain prompts the messages of the conversations that ask the same in a single turn.

    Args:
        folder: the tables that `ingest` wrote; those that change are written again.

    Returns:
        How many rows got messages.
    """
    tables = {name: read_table(folder / f"{name}.parquet", TABLES[name]) for name in _ASKED}
    turns: dict[bytes, str] = {}
    for table in tables.values():
        turns.update(_lone(table))
    changed = 0
    if turns:
        for name, table in tables.items():
            if places := [place for place, key in _plain(table) if key in turns]:
                changed += len(places)
                _write(folder / f"{name}.parquet", table, set(places), turns)
    return changed


def _key(prompt: str) -> bytes:
    text = prompt.replace("\r\n", "\n").strip()
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def _lone(table: Table) -> Iterator[tuple[bytes, str]]:
    """The prompts that are a single turn of the user's, and its words."""
    for batch in table.batches(["messages"]):
        messages = batch.column("messages")
        if messages.null_count < len(messages):
            for turns in messages.filter(pc.equal(pc.list_value_length(messages), 1)).to_pylist():
                if turns[0]["role"] == "user" and turns[0]["content"]:
                    yield _key(turns[0]["content"]), turns[0]["content"]


def _plain(table: Table) -> Iterator[tuple[int, bytes]]:
    """The places of rows whose prompt is a text, and its key."""
    start = 0
    for batch in table.batches(["prompt", "messages"]):
        prompts, messages = batch.column("prompt"), batch.column("messages")
        for place, (prompt, is_text) in enumerate(
            zip(prompts.to_pylist(), messages.is_null().to_pylist(), strict=True), start=start
        ):
            if is_text and prompt:
                yield place, _key(prompt)
        start += batch.num_rows


def _write(path: Path, table: Table, places: set[int], turns: dict[bytes, str]) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        for place, row in enumerate(table):
            if place in places:
                row["messages"] = [{"role": "user", "content": turns[_key(row["prompt"])]}]
            yield row

    with TableWriter(path, table.contract) as writer:
        writer.write(rows())
