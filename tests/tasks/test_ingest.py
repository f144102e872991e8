"""The stage `ingest`: which source it reads, and that it repeats its bytes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import Workspace

from flows.params import plan, write_params
from rlhf.data.contracts import GOLD, TABLES
from rlhf.data.errors import DataError
from rlhf.data.table import read_table
from rlhf.settings import Ingest, Prepare, SettingsError, load_settings
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


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pairs(name: str, count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"{name} {i}?", "chosen": "Yes.", "rejected": "No."} | more for i in range(count)]


def test_several_sources_are_mixed_each_under_its_name(workspace: Workspace) -> None:
    write(Path("a/pairs.jsonl"), pairs("a", 200))
    write(Path("b/pairs.jsonl"), pairs("b", 40) + pairs("held out", 10, split="test"))
    write(Path("c.jsonl"), [{"frage": "c?", "antwort": "Ja.", "falsch": "Nein."}])
    columns = {"prompt": "frage", "chosen": "antwort", "rejected": "falsch"}
    sources = [
        {"path": "a", "name": "large", "weight": 0.25},
        {"path": "b", "weight": 0.5},
        {"path": "c.jsonl", "columns": columns, "split": "validation"},
    ]
    workspace.set({"ingest.source": "files", "ingest.sources": sources})
    settings = plan(None, None, {})
    write_params(Path("params.yaml"), settings)
    assert load_settings() == settings
    assert workspace.stage("ingest")["rows/comparisons"] == len(mixed_rows())
    rows = mixed_rows()
    taken = Counter(row["source"] for row in rows)
    assert taken["large"] in range(30, 71)  # 50 expected, and 3 standard deviations of 6
    assert sum(row["source"] == "pairs.jsonl" and row["split"] is None for row in rows) in range(10, 31)
    assert sum(row["split"] == "test" for row in rows) == 10
    assert [row["split"] for row in rows if row["prompt"] == "c?"] == ["validation"]
    # Which rows are taken depends on nothing else: neither order nor the other sources.
    before = {row["prompt"] for row in rows if row["source"] == "large"}
    write(Path("a/pairs.jsonl"), pairs("a", 200)[::-1])
    workspace.set({"ingest.sources": sources[:1], "ingest.sha256": None})
    workspace.stage("ingest")
    assert {row["prompt"] for row in mixed_rows()} == before


def mixed_rows() -> list[dict[str, Any]]:
    return list(read_table("data/raw/comparisons.parquet", TABLES["comparisons"]))


def test_sources_are_pinned_by_what_they_hold(workspace: Workspace) -> None:
    write(Path("a.jsonl"), pairs("a", 3))
    write(Path("b.jsonl"), pairs("b", 3))
    named = {"ingest.source": "files", "ingest.sources": [{"path": "a.jsonl"}, {"path": "b.jsonl"}]}
    first = plan(None, None, named)
    assert [source.path for source in first.ingest.sources] == [
        str(Path("a.jsonl").resolve()),
        str(Path("b.jsonl").resolve()),
    ]
    write(Path("b.jsonl"), pairs("b", 4))
    assert plan(None, None, named).ingest.sha256 != first.ingest.sha256
    with pytest.raises(DataError, match="the data changed"):
        load(first.ingest, seed=1)
    with pytest.raises(SettingsError, match=r"ingest\.sources: c\.jsonl: no such file or folder"):
        plan(None, None, named | {"ingest.sources": [{"path": "c.jsonl"}]})
    with pytest.raises(SettingsError, match=r"^a\.jsonl: .* names its data in ingest\.sources"):
        plan(None, "a.jsonl", named)
    inside = Path("inside")
    write(inside / "a.jsonl", pairs("a", 3))
    write(inside / "b.jsonl", pairs("b", 2))
    within = plan(None, "inside", named)  # relative paths are in the folder
    assert [source.path for source in within.ingest.sources] == [
        str((inside / name).resolve()) for name in ("a.jsonl", "b.jsonl")
    ]
    assert within.ingest.sha256 not in (None, first.ingest.sha256)
    assert within.ingest.path is None
    assert len(load(within.ingest, seed=1).tables["comparisons"]) == 5
    with pytest.raises(SettingsError, match=r"inside: .* names its data in ingest\.sources"):
        plan(None, "inside", named | {"ingest.sources": [{"path": str(Path("a.jsonl").resolve())}]})
    with pytest.raises(DataError, match=r"ingest\.path and ingest\.sources both name data"):
        load(Ingest(source="files", path="a.jsonl", sources=first.ingest.sources), seed=1)


def test_a_pattern_may_be_named_as_data(workspace: Workspace) -> None:
    write(Path("own/a.jsonl"), pairs("a", 3))
    write(Path("own/b.jsonl"), pairs("b", 3))
    settings = plan(None, "own/*.jsonl", {"ingest.source": "files"})
    assert settings.ingest.path == str(Path("own/*.jsonl").resolve())
    assert len(load(settings.ingest, seed=1).tables["comparisons"]) == 6


def test_a_weight_above_one_would_repeat_rows_and_is_refused(workspace: Workspace) -> None:
    with pytest.raises(SettingsError, match=r"ingest\.sources.*weight.*2"):
        plan(None, None, {"ingest.source": "files", "ingest.sources": [{"path": "a", "weight": 2}]})


def test_rows_that_cannot_be_read_are_put_aside_where_params_say_so(workspace: Workspace) -> None:
    good = [json.dumps(row) for row in pairs("a", 4)]
    bad = ["{", '{"prompt": "p", "chosen": "x"}', '{"prompt": 5, "chosen": "x", "rejected": "y"}', "[1]"]
    Path("d.jsonl").write_text("\n".join([*good[:2], *bad, *good[2:]]))
    workspace.set({"ingest.source": "files", "ingest.path": "d.jsonl"})
    with pytest.raises(DataError, match=r"d\.jsonl: row 3: not valid JSON"):
        workspace.stage("ingest")
    assert not Path("data/raw").exists()
    workspace.set({"ingest.unreadable": "quarantine"})
    figures = workspace.stage("ingest")
    assert (figures["rows/comparisons"], figures["rows/quarantined"]) == (4, 4)
    lines = Path("data/raw/quarantine.jsonl").read_text().splitlines()
    aside = sorted(map(json.loads, lines), key=lambda row: row["row"])
    assert [(row["file"], row["row"]) for row in aside] == [("d.jsonl", f"row {n}") for n in (3, 4, 5, 6)]
    assert all(row["rule"] == "readable" and row["why"] for row in aside)
    assert (aside[0]["record"], aside[1]["record"]) == ("{\n", {"prompt": "p", "chosen": "x"})
    Path("d.jsonl").write_text("\n".join(bad))
    with pytest.raises(DataError, match=r"nothing in it could be read.*; the first is d\.jsonl: row \d: "):
        workspace.stage("ingest")
    assert len(mixed_rows()) == 4  # the earlier result stays whole
