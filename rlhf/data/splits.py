"""Splits: every prompt is in one of them, however it is spelled and in whichever table it stands."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

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
    that adding prompts moves no other.

    Args:
        rows: all rows with a prompt, of all tables; `split` is changed in place.
        settings: the shares.
        seed: of the assignment.
    """
    rows = list(rows)
    carried: dict[str, str] = {}  # key -> the split that a row of this prompt carries
    first: dict[str, str] = {}  # key -> the first spelling, whose hash decides
    for row in rows:
        if row["prompt"]:
            first.setdefault(prompt_key(row["prompt"]), row["prompt"])
            if row["split"]:
                carried.setdefault(prompt_key(row["prompt"]), row["split"])
    for row in rows:
        key = prompt_key(row["prompt"] or "")
        row["split"] = row["split"] or carried.get(key) or split_of(first.get(key, ""), settings, seed)
