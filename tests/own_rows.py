"""What tests of a user's own data share: settings by key, rows, and a workspace that reads them."""

from __future__ import annotations

import json
from typing import Any

from conftest import Workspace

from rlhf.data.contracts import TABLES
from rlhf.data.table import read_table
from rlhf.settings import Settings, check_settings


def settings(**changes: Any) -> Settings:
    """Settings with dotted keys (`__` for the dot) changed."""
    values: dict[str, Any] = {}
    for key, value in changes.items():
        *sections, last = key.split("__")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return check_settings(values, "test")


def rows_of(number: int, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"question {i}", "completion": f"answer {i}", **more} for i in range(number)]


def rankings(number: int, ranking: tuple[int, ...] = (1, 2), **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"question {i}",
            "completions": ["good", "bad"],
            "ranking": list(ranking),
            "labeler_id": "ann",
            **more,
        }
        for i in range(number)
    ]


def prepared(workspace: Workspace) -> dict[str, list[dict[str, Any]]]:
    """The tables that `validate` reads."""
    for stage in ("ingest", "prepare"):
        workspace.stage(stage)
    return {name: read_table(f"data/prepared/{name}.parquet", contract) for name, contract in TABLES.items()}


def own(
    workspace: Workspace, demonstrations: list[dict[str, Any]], comparisons: list[dict[str, Any]]
) -> None:
    folder = workspace.path / "own"
    folder.mkdir(exist_ok=True)
    for name, rows in (("demonstrations", demonstrations), ("comparisons", comparisons)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    workspace.set({"ingest.source": "files", "ingest.path": str(folder), "collect.labelers": "given"})
    workspace.set(
        {"evaluate.judges": ["reward-model"], "prepare.judge_share": 0.2, "prepare.test_share": 0.2}
    )
