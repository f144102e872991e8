"""The stage `ingest`: which source it reads, and that it repeats its bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Workspace

from rlhf.data.contracts import GOLD, TABLES
from rlhf.data.errors import DataError
from rlhf.data.table import read_table
from rlhf.settings import Ingest
from tasks.ingest import load


def test_a_path_is_for_sources_that_read_files() -> None:
    with pytest.raises(DataError, match="builtin reads none"):
        load(Ingest(path="x"), seed=1)
    with pytest.raises(DataError, match=r"ingest\.path is not set"):
        load(Ingest(source="files"), seed=1)


def test_ingest_and_prepare_write_the_same_bytes_again(workspace: Workspace) -> None:
    def outputs() -> dict[str, bytes]:
        return {
            str(f): f.read_bytes()
            for d in ("data", "metrics")
            for f in sorted(Path(d).rglob("*"))
            if f.is_file()
        }

    assert workspace.stage("ingest") == {
        "rows/corpus": 200,
        "rows/demonstrations": 160,
        "rows/prompts": 160,
        "rows/comparisons": 0,
        "rows/judgments": 0,
    }
    figures = workspace.stage("prepare")
    assert figures["demonstrations/test"] == 40
    assert figures["demonstrations/train"] + figures["demonstrations/validation"] == 120
    first = outputs()
    workspace.stage("ingest")
    workspace.stage("prepare")
    assert outputs() == first
    metrics = json.loads(Path("metrics/prepare.json").read_text())
    assert metrics["corpus"] == metrics["corpus"] | {"rows": 200, "dropped": 0}
    assert metrics["demonstrations"]["test"]["prompts"] == 40
    gold = read_table("data/gold/facts.parquet", GOLD)
    prompts = read_table("data/prepared/prompts.parquet", TABLES["prompts"])
    assert {row["prompt"] for row in gold} == {row["prompt"] for row in prompts}
