"""Collected rankings: what labelers are shown, and how their agreement is counted."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from conftest import Workspace
from label_app import answer, candidates, filled, person

from labeling.contracts import rows_hash, tables
from labeling.projects import add_project
from labeling.store import Store
from labeling.versions import cut_version, new_labels
from rlhf.compute import deterministic
from rlhf.data.contracts import COMPARISON, DEMONSTRATION, PROMPT, row_id, with_ids
from rlhf.data.errors import DataError
from rlhf.data.files import read_json
from rlhf.data.table import read_table, write_table
from rlhf.models.policy import Policy, save_model
from rlhf.models.scratch import new_model, train_tokenizer
from rlhf.settings import load_settings
from tasks.collect import _same_turns, agreement
from tasks.collect import candidates as collected


def row(labeler: str, ranking: list[int], group: str = "expert", seconds: float | None = None) -> dict:
    return {
        "prompt": "p",
        "completions": [" a", " b", " c"],
        "ranking": ranking,
        "labeler_id": labeler,
        "labeler_group": group,
        "seconds": seconds,
    }


def test_agreement_counts_pairs_that_two_people_ranked() -> None:
    # pairs (a,b), (a,c), (b,c): agree; one of them ties: half; opposite: zero
    figures = agreement([row("ann", [1, 2, 2], seconds=10), row("bob", [1, 2, 1], "novice", seconds=30)])
    # (a,b) agree 1; (a,c): ann strict, bob tie 0.5; (b,c): ann tie, bob strict 0.5
    assert figures["all"]["agreement"] == pytest.approx(2 / 3)
    assert figures["all"]["agreement_pairs"] == 3
    assert figures["all"]["tie_share"] == pytest.approx(2 / 6)
    assert figures["expert"] == {"rankings": 1, "tie_share": pytest.approx(1 / 3), "median_seconds": 10}
    opposite = agreement([row("ann", [1, 2, 3]), row("bob", [3, 2, 1])])
    assert opposite["all"]["agreement"] == 0
    assert "agreement" not in agreement([row("ann", [1, 2, 3])])["all"]


def untrained_sft() -> None:
    deterministic(0, 1)
    tokenizer = train_tokenizer(
        ["SUBREDDIT: r/x\nTITLE: my sister.\nPOST: she lost it.\nTL;DR: so"], "word", 300
    )
    for name in ("pretrained", "sft"):
        save_model(Policy(new_model("0.1M", tokenizer, 256), tokenizer), f"models/{name}")


def test_simulated_rankings_hold_the_reference_and_no_text_twice(workspace: Workspace, monkeypatch) -> None:
    workspace.stage("ingest")
    workspace.stage("prepare")
    untrained_sft()
    workspace.stage("collect")
    rows = read_table("data/comparisons/comparisons.parquet", COMPARISON)
    assert {r["split"] for r in rows} == {"train", "validation"}
    for r in rows:
        texts = r["completions"]
        assert len(set(texts)) == len(texts) >= 2
        assert all(text[0].isspace() and text.strip() for text in texts)
        assert r["policies"][0] == "reference"
        assert sorted(r["shown_order"]) == list(range(len(texts)))
        assert min(r["ranking"]) == 1
        assert r["source"] == "simulated"
    # where a share of the prompts is the judge's, those are ranked too, and the others as before
    before = {r["id"] for r in rows if r["split"] == "train"}
    prepared = read_table("data/prepared/demonstrations.parquet", DEMONSTRATION)
    spare = [r for r in prepared if r["split"] == "train"][16:]
    moved = {r["prompt"] for r in spare[:5]}
    changed = [r | ({"split": "judge"} if r["prompt"] in moved else {}) for r in prepared]
    write_table("data/prepared/demonstrations.parquet", DEMONSTRATION, changed)
    workspace.stage("collect")
    rows = read_table("data/comparisons/comparisons.parquet", COMPARISON)
    assert {r["prompt"] for r in rows if r["split"] == "judge"} <= moved
    assert sum(r["split"] == "judge" for r in rows) >= 3
    assert {r["prompt"] for r in rows if r["split"] == "train"}.isdisjoint(moved)
    assert len(before & {r["id"] for r in rows}) == len(before)

    workspace.set({"collect.shared": 1, "collect.overlap": 3})
    workspace.stage("collect")
    people: dict[str, list[str]] = {}
    for r in read_table("data/comparisons/comparisons.parquet", COMPARISON):
        people.setdefault(r["prompt"], []).append(r["labeler_id"])
    assert {len(set(who)) for who in people.values()} == {3}

    monkeypatch.setattr("tasks.collect.generate", lambda policy, rows, **_: [""] * len(rows))
    with pytest.raises(DataError, match=r"nothing to rank: of \d+ prompts none .* train it longer"):
        workspace.stage("collect")


def test_references_stand_above_samples_and_above_references_made_worse(workspace: Workspace) -> None:
    workspace.stage("ingest")
    workspace.stage("prepare")
    untrained_sft()
    path = "data/prepared/demonstrations.parquet"
    rows = list(read_table(path, DEMONSTRATION))
    twice = next(row for row in rows if row["split"] == "train")
    again = twice | {"completion": " Another person says it so.", "id": None}
    write_table(path, DEMONSTRATION, with_ids(DEMONSTRATION, [*rows, again], "x"))
    workspace.set({"collect.labelers": "references", "collect.prompts": 30, "collect.candidates": 3})
    workspace.stage("collect")
    ranked = list(read_table("data/comparisons/comparisons.parquet", COMPARISON))
    splits = Counter(row["split"] for row in ranked)
    assert splits["train"] == 30
    assert 1 <= splits["validation"] <= 3
    assert set(splits) == {"train", "validation"}
    references = {(row["prompt"], row["completion"].strip()) for row in [*rows, again]}
    policies: Counter[str] = Counter()
    for row in ranked:
        assert (row["labeler_id"], row["source"], row["shown_order"]) == ("references", "references", None)
        for text, rank, who in zip(row["completions"], row["ranking"], row["policies"], strict=True):
            assert (rank == 1) == (who == "reference") == ((row["prompt"], text.strip()) in references)
            policies[who] += 1
    assert policies["reference"] == sum(splits.values()) + 1  # both of the prompt that has two
    for name in ("sft", "pretrained"):
        assert 1 <= policies[name] <= 2 * sum(splits.values())
    assert sum(n for who, n in policies.items() if "," in who) == 2 * sum(splits.values())
    # The references are the bytes that were prepared: white space is part of code.
    prepared = {(row["prompt"], row["completion"]) for row in [*rows, again]}
    assert all((row["prompt"], row["completions"][0]) in prepared for row in ranked)
    figures = workspace.stage("reward")
    assert figures["loss"] is not None


def test_samples_that_are_no_text_are_left_out_and_counted(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    deterministic(0, 1)
    tokenizer = train_tokenizer(["a few words"], "bpe", 300)
    policy = Policy(new_model("0.1M", tokenizer, 256), tokenizer)
    posts = [{"prompt": f"p{i}", "messages": None, "completion": " fine"} for i in range(20)]
    # A model that knows nothing writes bytes, most of which are no UTF-8.
    save_model(policy, "models/bytes")
    shown = collected("models/bytes", posts, load_settings())
    assert all(texts[0] == " fine" for texts in shown)
    every = [text for texts in shown for text in texts]
    assert not any(ord(letter) in (*range(9), 0x7F, 0xFFFD) for text in every for letter in text)
    counted = re.search(r"(\d+) of 60 samples hold characters", capsys.readouterr().out)
    assert counted
    assert int(counted[1]) >= 60 - len(every) + 20 > 30


def test_the_reward_stage_weighs_labelers_by_their_overlap(workspace: Workspace) -> None:
    workspace.stage("ingest")
    workspace.stage("prepare")
    untrained_sft()
    workspace.set({"collect.prompts": 60, "collect.shared": 1, "collect.overlap": 4})
    workspace.stage("collect")
    workspace.set({"reward.labeler_weights": "dawid-skene"})
    figures = workspace.stage("reward")
    assert figures["weight/spammer"] < figures["weight/novice"] < figures["weight/expert"]
    weights = read_json("metrics/reward.json")["labeler_weights"]
    rows = read_table("data/comparisons/comparisons.parquet", COMPARISON)
    trained = [weights[r["labeler_id"]] for r in rows if r["split"] == "train"]
    assert sum(trained) / len(trained) == pytest.approx(1)

    workspace.set({"collect.shared": 0})
    workspace.stage("collect")
    with pytest.raises(DataError, match="collect overlapping rankings"):
        workspace.stage("reward")


def test_labels_of_another_conversation_than_the_datasets_are_counted() -> None:
    turns = [{"role": "user", "content": "a\nb"}]
    assert _same_turns(turns, None)  # labels from before there were conversations
    assert _same_turns(None, None)
    assert _same_turns(turns, [{"role": "user", "content": "a\r\nb"}])
    assert not _same_turns(None, turns)
    assert not _same_turns([{"role": "system", "content": "s"}, *turns], turns)


def test_rankings_of_the_label_store_are_a_version_and_no_more(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{workspace.path / 'labels.db'}"
    monkeypatch.setenv("LABELING_DB", url)
    store = Store(url)
    with store.write() as tx:
        add_project(tx, "p", "test")
    queue = filled(store, "rank", candidates(4, outputs=3))
    ann = person(store, "ann")
    for _ in range(3):
        answer(store, ann, queue, ranks=[1, 2, 2])
    with store.write() as tx:
        assert cut_version(tx, "p", "test") == 1
    answer(store, ann, queue, ranks=[1, 2, 2])  # comes too late for version 1
    with store.read() as tx:
        pinned = rows_hash(tables(tx, "p", 1)["comparisons"])
        assert [new_labels(tx, "p", since) for since in (None, 0, 1)] == [1, 4, 1]
    known: list[dict[str, Any]]
    known = [{"prompt": f"prompt {i}", "split": split} for i, split in ((0, "test"), (1, "validation"))]
    known[1]["messages"] = [{"role": "user", "content": "prompt 1"}]
    write_table("data/prepared/prompts.parquet", PROMPT, with_ids(PROMPT, known, "test"))

    workspace.set({"collect.labelers": "store", "collect.labels.project": "p"})
    with pytest.raises(DataError, match=r"collect\.labels\.version is not set"):
        workspace.stage("collect")
    workspace.set({"collect.labels.version": 1, "collect.labels.sha256": pinned})
    workspace.stage("collect")
    rows = read_table("data/comparisons/comparisons.parquet", COMPARISON)
    assert len(rows) == 3
    for row in rows:  # the dataset says which prompt is a conversation, whose answers stay as they are
        assert row["messages"] == (known[1]["messages"] if row["prompt"] == "prompt 1" else None)
        start = "output" if row["messages"] else " output"
        assert all(text.startswith(start) for text in row["completions"])
    assert {row["messages"] is None for row in rows} == {True, False}
    assert {row["id"] for row in rows} == {row_id(COMPARISON, row) for row in rows}

    workspace.set({"collect.labels.version": 2})
    with pytest.raises(DataError, match="there is no version 2; the newest is 1"):
        workspace.stage("collect")
    with store.write() as tx:
        assert cut_version(tx, "p", "test") == 2
    with pytest.raises(DataError, match=r"the run asks for .*: this is another store"):
        workspace.stage("collect")
    workspace.set({"collect.labels.sha256": None})
    workspace.stage("collect")
    rows = read_table("data/comparisons/comparisons.parquet", COMPARISON)
    # a prompt is in the split that the dataset has it in; one that only the labels know is trained on
    assert {row["prompt"]: row["split"] for row in rows} == {
        "prompt 0": "test",
        "prompt 1": "validation",
        "prompt 2": "train",
        "prompt 3": "train",
    }
    store.close()
