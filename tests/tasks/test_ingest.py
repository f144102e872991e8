"""The stage `ingest`: which source it reads, and that it repeats its bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Workspace

from rlhf.data.contracts import GOLD, TABLES
from rlhf.data.errors import DataError
from rlhf.data.table import read_table
from rlhf.settings import Ingest, Prepare
from tasks.ingest import load
from tasks.prepare import prepare


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
        "rows/votes": 0,
        "rows/judgments": 0,
        "rows/quarantined": 0,
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


def test_the_built_in_world_told_as_chat_passes_validation_with_its_facts(workspace: Workspace) -> None:
    workspace.set({"ingest.chat": True, "base.template": "chatml"})
    for stage in ("ingest", "prepare", "validate"):
        workspace.stage(stage)
    gold = read_table("data/gold/facts.parquet", GOLD)
    prompts = read_table("data/prepared/prompts.parquet", TABLES["prompts"])
    assert {row["prompt"] for row in gold} == {row["prompt"] for row in prompts}
    rows = read_table("data/prepared/demonstrations.parquet", TABLES["demonstrations"])
    assert all([turn["role"] for turn in row["messages"]] == ["system", "user"] for row in rows)
    assert all(row["completion"] == row["completion"].strip() for row in rows)
    corpus = read_table("data/prepared/corpus.parquet", TABLES["corpus"])
    assert len(corpus) == 200
    # A held-out post stays out of the corpus in whatever words it is asked about.
    raw = {name: list(read_table(f"data/raw/{name}.parquet", contract)) for name, contract in TABLES.items()}
    test = next(row for row in raw["prompts"] if row["split"] == "test")
    raw["corpus"][0]["text"] = test["messages"][-1]["content"] + "\nTL;DR: my ..."
    assert len(prepare(raw, Prepare(), 17)["corpus"]) == 199


def test_only_the_built_in_world_is_told_as_chat(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ingest\.chat tells the posts of builtin as conversations"):
        load(Ingest(source="files", path=str(tmp_path), chat=True), seed=1)
