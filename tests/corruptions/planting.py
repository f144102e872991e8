"""Good tables, and the ways in which tests spoil them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
Tables = dict[str, list[Row]]
DEMOS, COMPS, VOTES = "demonstrations", "comparisons", "votes"
SPLIT = {0: "test", 1: "test", 2: "validation"}
WORDS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "harbor", "inlet", "juniper", "kelp")


def words(seed: int, number: int = 6) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=number))


def good() -> Tables:
    """Tables that no rule has anything to say about."""
    return {
        DEMOS: [
            {
                "prompt": f"question {i}: {words(i)}?",
                "completion": words(99 + i),
                "split": SPLIT.get(i, "train"),
            }
            for i in range(12)
        ],
        COMPS: [
            {
                "prompt": f"question {i}: {words(i)}?",
                "completions": [words(200 + i), words(300 + i), words(400 + i)],
                "ranking": [1, 2, 2],
                "labeler_id": "ann",
            }
            for i in range(3, 8)
        ],
        VOTES: [
            {
                "prompt": f"question {i}: {words(i)}?",
                "completion": words(500 + i),
                "label": i % 2 == 0,
                "labeler_id": "ben",
            }
            for i in range(3, 8)
        ],
    }


Plant = Callable[[Tables], None]


@dataclass(frozen=True)
class Corruption:
    """A corruption and its clean twin.

    Attributes:
        rule: the rule that must find it.
        bad, fine: what is planted in good tables.
        said: what the line says besides.
        params: parameters by dotted key.
    """

    rule: str
    bad: Plant
    fine: Plant
    said: tuple[str, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)


def put(table: str, row: int, **values: Any) -> Plant:
    """Change columns of a row (from 0)."""

    def plant(tables: Tables) -> None:
        tables[table][row] = tables[table][row] | values

    return plant


def say(text: str) -> Plant:
    """The completion of demonstration 5."""
    return put(DEMOS, 4, completion=text)


def more(table: str, *rows: Row) -> Plant:
    return lambda tables: tables[table].extend(rows)


def both(*plants: Plant) -> Plant:
    def plant(tables: Tables) -> None:
        for each in plants:
            each(tables)

    return plant


def rankings(number: int, of: Callable[[int], Row]) -> Plant:
    """Many comparisons in place of the five."""

    def plant(tables: Tables) -> None:
        tables[COMPS] = [
            {"prompt": f"question {i} again", "labeler_id": f"labeler {i % 7}", "split": "train"} | of(i)
            for i in range(number)
        ]

    return plant


def pair(i: int, better: str | None = None, worse: str | None = None, first: int | None = None) -> Row:
    """A ranking of two texts; `first`: which of them, 0 the better, was shown first."""
    row: Row = {"completions": [better or words(600 + i), worse or words(700 + i)], "ranking": [1, 2]}
    return row if first is None else row | {"shown_order": [first, 1 - first]}


def asked(*contents: str) -> list[Row]:
    roles = ("user", "assistant") * len(contents)
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


TEST_PROMPT = "Which of the two harbors has the deeper water in late summer?"
LONG_REFERENCE = "The northern harbor, since the river no longer fills it with sand."
held_out = put(DEMOS, 0, prompt=TEST_PROMPT, completion=LONG_REFERENCE)
row_5 = ("row 5 of demonstrations.jsonl",)
row_3 = ("row 3 of comparisons.jsonl",)
