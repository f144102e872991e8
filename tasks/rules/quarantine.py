"""Rows that are set aside: taken out of the prepared tables, and written beside with the rule they break."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.data.contracts import TABLES
from rlhf.data.table import TableWriter, read_table
from tasks.rules.catalogue import BY_NAME, rules_of
from tasks.rules.checking import Checked, Finding, compute, example
from tasks.rules.groups import groups_of
from tasks.rules.rule import Asked
from tasks.rules.view import views

SET_ASIDE = "quarantine.jsonl"  # in the folder of the tables; it is there where rows were set aside


def set_aside(folder: Path, asked: Asked) -> dict[str, int]:
    """Take the rows out that break a rule whose severity is `quarantine`.

    Args:
        folder: with a file for each name of `contracts.TABLES`, which is written anew where rows go.
        asked: what the parameters say of the rules.

    Returns:
        table -> how many rows were taken out; tables that lost none are left out.
    """
    tables = views(
        {name: read_table(folder / f"{name}.parquet", TABLES[name]) for name in TABLES},
        partial(groups_of, folder),
    )
    checked = []
    for name, view in tables.items():
        rules = [rule for rule in rules_of(name, asked) if rule.gravity(asked) == "quarantine"]
        if rules:
            checked.append(compute(view, rules, asked))
    taken: dict[str, int] = {}
    lines: list[str] = []
    for table in checked:
        broken = np.logical_or.reduce(list(table.masks.values()))
        if broken.any():
            taken[table.view.name] = int(broken.sum())
            lines += [_line(table, int(number), asked) for number in np.flatnonzero(broken)]
    for name in taken:
        view = tables[name]
        masks = next(table.masks for table in checked if table.view is view)
        kept = np.flatnonzero(~np.logical_or.reduce(list(masks.values())))
        whole = read_table(folder / f"{name}.parquet", TABLES[name])
        with TableWriter(folder / f"{name}.parquet", TABLES[name]) as writer:
            for batch in whole.take(kept).batches():
                writer.write_batch(batch)
    if lines:
        (folder / SET_ASIDE).write_text("".join(lines))
    return taken


def _line(checked: Checked, number: int, asked: Asked) -> str:
    view = checked.view
    rule = BY_NAME[next(name for name, mask in checked.masks.items() if mask[number])]
    told: dict[str, Any] = {
        "table": view.name,
        "where": view.place(number),
        "rule": rule.name,
        "why": rule.filled(rule.text, view.name, asked),
        "shows": example(view, rule, number),
        "row": view.row(number),
    }
    return json.dumps(told, ensure_ascii=False) + "\n"


def findings_of(folder: Path) -> list[Finding]:
    """What was set aside in a folder, a finding for each table and rule."""
    path = folder / SET_ASIDE
    if not path.exists():
        return []
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], dict[str, Any]] = {}
    with path.open() as lines:
        for told in map(json.loads, lines):
            key = told["table"], told["rule"]
            counts[key] += 1
            first.setdefault(key, {name: told[name] for name in ("where", "why", "shows")})
    return [
        Finding(
            table,
            rule,
            "quarantine",
            first[table, rule]["why"],
            rows,
            f"{first[table, rule]['where']} ({first[table, rule]['shows']})",
            f"set aside in {path}",
        )
        for (table, rule), rows in counts.items()
    ]
