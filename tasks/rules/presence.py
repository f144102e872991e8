"""Rules of what must be there at all: rows in the tables that the parameters need, and in every split."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from tasks.rules.rule import TEXTS, Asked, Figure, Rule
from tasks.rules.view import View


def _rows(view: View, _: Any) -> Figure:
    return Figure(view.size, f"found {view.size}")


def _splits(view: View, _: Any) -> Figure | None:
    if not view.size:
        return None
    there = set(pc.unique(view.column("split")).to_pylist())
    lacking = [split for split in ("train", "validation", "test") if split not in there]
    return Figure(len(lacking), f"missing: {', '.join(lacking)}" if lacking else "all have some")


def _required(table: str, asked: Asked) -> bool:
    return table in asked.required


RULES = (
    Rule(
        "has_rows",
        TEXTS,
        "there are {table}",
        "the parameters ask for a stage that reads them",
        "bring at least one of the {table}",
        threshold=1,
        least=True,
        figure=_rows,
        applies=_required,
    ),
    Rule(
        "splits_have_rows",
        ("demonstrations",),
        "train, validation and test have rows",
        "curves need validation rows, and an evaluation needs prompts that trained nothing",
        "give rows a split or raise prepare.test_share and prepare.validation_share",
        threshold=0,
        figure=_splits,
    ),
)
