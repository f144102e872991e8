"""Splits: every prompt is in one of them, however it is spelled and in whichever table it stands."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from rlhf.data.conversations import transcript
from rlhf.settings import Prepare


def prompt_key(prompt: str) -> str:
    """What all spellings of a prompt share for the splits: white space and the letters' case do not count.

    It is not `rlhf.data.distinct.spelling`, by which an evaluation counts a question once: that one takes off
    accents, punctuation and invisible characters too, and walks over every character. This one decides where
    data goes: it runs over every row of every table, and has to stay as it is, or prompts of old runs would
    change their split.
    """
    return " ".join(prompt.split()).casefold()


def split_of(prompt: str, settings: Prepare, seed: int) -> str:
    """The split of a prompt that came with none: test and judge by their shares, validation of the rest."""
    digest = hashlib.sha256(f"{seed}\0{prompt}".encode()).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    ends = [("test", settings.test_share), ("judge", settings.test_share + settings.judge_share)]
    ends.append(("validation", ends[-1][1] + settings.validation_share * (1 - ends[-1][1])))
    return next((split for split, end in ends if place < end), "train")


def assign_splits(rows: Iterable[dict[str, Any]], settings: Prepare, seed: int) -> None:
    """Fill in the splits of rows that lack one.

    A row that carries a split keeps it, and the rows of its prompt that carry none get it too, however the
    prompt is spelled (`prompt_key`). Other prompts are assigned by a seeded hash of their first spelling, so
    that adding prompts moves no other. A conversation that goes on from another row's prompt is in that
    prompt's split, because it tells what was answered there.

    Args:
        rows: all rows with a prompt, of all tables; `split` is changed in place.
        settings: the shares.
        seed: of the assignment.
    """
    rows = list(rows)
    keys = _keys(rows)
    carried: dict[str, str] = {}  # key -> the split that a row of this prompt carries
    first: dict[str, str] = {}  # key -> the first spelling, whose hash decides
    for row, key in zip(rows, keys, strict=True):
        if row["prompt"]:
            if not row.get("messages") or prompt_key(row["prompt"]) == key:
                first.setdefault(key, row["prompt"])
            if row["split"]:
                carried.setdefault(key, row["split"])
    for row, key in zip(rows, keys, strict=True):
        row["split"] = row["split"] or carried.get(key) or split_of(first.get(key, ""), settings, seed)


def _keys(rows: list[dict[str, Any]]) -> list[str]:
    """What the rows of one split share, for each row: the key of its prompt, or of the shortest beginning of
    its conversation that is a prompt itself."""
    own = [prompt_key(row["prompt"] or "") for row in rows]
    key_of: dict[str, str] = {}
    for row, key in zip(rows, own, strict=True):
        if row.get("messages"):
            key_of.setdefault(prompt_key(transcript(row["messages"])), key)
    keys = []
    for row, key in zip(rows, own, strict=True):
        turns = row.get("messages") or []
        starts = (
            prompt_key(transcript(turns[:end]))
            for end in range(1, len(turns) + 1)
            if end == len(turns) or turns[end]["role"] == "assistant"
        )
        keys.append(next((key_of[start] for start in starts if start in key_of), key))
    return keys
