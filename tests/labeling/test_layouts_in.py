"""Every layout of the pipeline comes in through the label app as the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from layout_fixtures import FIXTURES
from layout_reading import read_path

from labeling.contracts import tables
from labeling.imports.files import read_labels
from labeling.imports.storing import store_labels
from labeling.projects import add_project
from labeling.store import Store

# Of these nothing is a label.
NO_LABELS = ("lqual", "plain-text", "prompts")
SAID = (
    *("prompt", "messages", "completions", "ranking", "labeler_id", "strength", "scores", "margin"),
    *("policies", "completion", "label", "reference", "output", "policy", "preferred", "judge_id", "split"),
)


def told(rows: list[dict[str, Any]]) -> list[str]:
    """What rows say, in any order, of names that are not empty."""
    full = [{name: row[name] for name in SAID if row.get(name) is not None} for row in rows]
    for row in full:
        if not any(row.get("policies", ())):
            row.pop("policies", None)
    return sorted(json.dumps(row, sort_keys=True) for row in full)


@pytest.mark.parametrize("name", [name for name in FIXTURES if name not in NO_LABELS])
def test_the_same_rows_through_the_app(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in FIXTURES[name][1]))
    items, _ = read_path(path)
    expected = {
        table: [item.row for item in items if item.table == table]
        for table in ("comparisons", "votes", "judgments")
    }
    store = Store(f"sqlite:///{tmp_path}/labels.db")
    with store.write() as tx:
        add_project(tx, "p", "test")
        store_labels(tx, "p", read_labels(path), "file", "test")
    with store.read() as tx:
        came = tables(tx, "p")
    store.close()
    for table, rows in expected.items():
        # An edit is better than the output that it was made of, which is a comparison of its own.
        read = [row for row in came[table] if (row.get("policies") or [""])[0] != "edited"]
        assert told(read) == told(rows), table
