"""Sources and `prepare`: what comes in, and how it is split."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from conftest import Workspace

from rlhf.data.contracts import DEMONSTRATION, GOLD, TABLES, row_id
from rlhf.data.errors import DataError
from rlhf.data.qa_feedback import PROMPT_CHARS, qa_feedback, ranking_of_pairs
from rlhf.data.sources import source_hash
from rlhf.data.table import read_table
from rlhf.settings import Ingest, Prepare
from rlhf.world.parser import parse
from rlhf.world.posts import draw_post
from rlhf.world.source import builtin
from tasks.ingest import load
from tasks.prepare import prepare, split_of

SMALL = Ingest(corpus_posts=400, train_posts=100, test_posts=50)


def test_builtin_tables() -> None:
    raw = builtin(SMALL, seed=1)
    tables = raw.tables
    assert {name: len(rows) for name, rows in tables.items()} == {
        "corpus": 400,
        "demonstrations": 150,
        "prompts": 150,
        "comparisons": 0,
    }
    assert sum(row["split"] == "test" for row in tables["demonstrations"]) == 50
    assert {row["split"] for row in tables["prompts"]} == {"test", None}
    assert len({row["prompt"] for row in tables["prompts"]}) == 150
    assert all(row["topic"] in row["prompt"].split("\n")[0] for row in tables["prompts"])
    gold = {row["prompt"]: json.loads(row["facts"]) for row in raw.gold}
    for row in tables["demonstrations"]:
        assert row["prompt"].endswith("TL;DR:")
        assert parse(row["prompt"]).values["who"][0] == gold[row["prompt"]]["who"]
    assert builtin(SMALL, seed=1) == raw
    assert builtin(SMALL, seed=2).tables != tables


def test_builtin_corpus_shows_no_test_post_and_a_share_of_summaries() -> None:
    raw = builtin(SMALL, seed=1)
    posts = {row["text"].split("\nTL;DR:")[0] for row in raw.tables["corpus"]}
    prompts = {row["prompt"].removesuffix("\nTL;DR:") for row in raw.tables["prompts"]}
    assert len(posts) == 400
    assert not posts & prompts
    summaries = [row["text"].split("\nTL;DR:")[1] for row in raw.tables["corpus"] if "TL;DR:" in row["text"]]
    assert 35 < len(summaries) < 85  # 15 %, three standard deviations
    assert all(text.startswith(" my ") or parse(text).stray for text in summaries)
    none = builtin(SMALL.model_copy(update={"summary_share": 0.0}), seed=1)
    assert not any("TL;DR:" in row["text"] for row in none.tables["corpus"])


def test_builtin_draws_no_post_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    few = [draw_post(rng, 0.5) for _ in range(560)]
    monkeypatch.setattr("rlhf.world.source.draw_post", lambda rng, decoy_share: rng.choice(few))
    tables = builtin(SMALL, seed=1).tables
    texts = [row["prompt"] for row in tables["prompts"]]
    texts += [row["text"].split("\nTL;DR:")[0] + "\nTL;DR:" for row in tables["corpus"]]
    assert len(texts) == len(set(texts)) == 550


def test_builtin_reads_no_path() -> None:
    with pytest.raises(DataError, match="builtin reads none"):
        load(Ingest(path="x"), seed=1)
    with pytest.raises(DataError, match=r"ingest\.path is not set"):
        load(Ingest(source="files"), seed=1)


def test_files_default_corpus_and_source_names(tmp_path: Path) -> None:
    (tmp_path / "demonstrations.csv").write_text("prompt,completion\nq1,a1\nq2, a2\n")
    raw = load(Ingest(source="files", path=str(tmp_path)), seed=1)
    assert [row["text"] for row in raw.tables["corpus"]] == ["q1 a1", "q2 a2"]
    assert {row["source"] for row in raw.tables["demonstrations"]} == {"demonstrations.csv"}
    assert raw.gold == []
    (tmp_path / "corpus.jsonl").write_text('{"text": "other"}\n')
    raw = load(Ingest(source="files", path=str(tmp_path)), seed=1)
    assert [row["text"] for row in raw.tables["corpus"]] == ["other"]


def test_source_hash_follows_content_and_not_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "demonstrations.csv").write_text("prompt,completion\nq,a\n")
    (tmp_path / "b" / "README.md").write_text("notes are no data")
    assert source_hash(tmp_path / "a") == source_hash(tmp_path / "b")
    (tmp_path / "b" / "demonstrations.csv").write_text("prompt,completion\nq,b\n")
    assert source_hash(tmp_path / "a") != source_hash(tmp_path / "b")
    (tmp_path / "f").write_bytes(b"abc")  # published test vector of SHA-256
    assert source_hash(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Pairs in the order (1,2) (1,3) (1,4) (2,3) (2,4) (3,4); 1 first better, 2 second better, 0 tie.
@pytest.mark.parametrize(
    ("preferences", "ranking"),
    [
        ([1, 1, 1, 1, 1, 1], [1, 2, 3, 4]),
        ([2, 2, 2, 2, 2, 2], [4, 3, 2, 1]),
        ([0, 0, 0, 0, 0, 0], [1, 1, 1, 1]),
        ([0, 1, 1, 1, 1, 0], [1, 1, 2, 2]),
        ([1, 1, 2, 0, 2, 2], [2, 3, 3, 1]),
        ([0, 1, 2, 1, 0, 2], [2, 1, 3, 1]),  # 4 beats 1, both tie with 2: a tie is broken, no preference lost
        ([1, 0, 0, 1, 1, 0], [1, 2, 3, 3]),
    ],
)
def test_pairs_become_a_ranking(preferences: list[int], ranking: list[int]) -> None:
    assert ranking_of_pairs(preferences) == ranking


@pytest.mark.parametrize("preferences", [[1, 2, 0, 1, 0, 0], [1, 0, 2, 1, 0, 1]])
def test_preferences_in_a_circle_are_refused(preferences: list[int]) -> None:
    with pytest.raises(DataError, match=r"the preferences .* go in a circle"):
        ranking_of_pairs(preferences)


def qa_item(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "question": f"who is number {number}?",
        "passages": [["Numbers", "Numbers\n\nA number  is a count.", "word " * 200], ["Shared", "The same."]],
        "gold": f"It is {number}. ",
        "preference": [1, 1, 1, 0, 1, 1],
        **{f"prediction {i}": f"answer {i}" for i in range(1, 5)},
        **changes,
    }


def test_qa_feedback_rows(tmp_path: Path) -> None:
    path = tmp_path / "dev_feedback.json"
    path.write_text(json.dumps([qa_item(1), qa_item(2, passages=[])]))
    tables = qa_feedback(path).tables
    first = tables["demonstrations"][0]
    assert first["prompt"].startswith(
        "QUESTION: who is number 1?\nPASSAGES: Numbers: Numbers A number is a count. word"
    )
    assert first["prompt"].endswith("word\nANSWER:")
    assert PROMPT_CHARS - 6 < len(first["prompt"]) <= PROMPT_CHARS
    assert tables["demonstrations"][1]["prompt"] == "QUESTION: who is number 2?\nPASSAGES: \nANSWER:"
    assert tables["comparisons"][0]["ranking"] == [1, 2, 2, 3]
    assert tables["comparisons"][0]["completions"] == ["answer 1", "answer 2", "answer 3", "answer 4"]
    texts = [row["text"] for row in tables["corpus"]]
    assert texts[1] == "Shared: The same."
    assert len(texts) == len(set(texts)) == 4  # two passages, two prompts


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([qa_item(1), {"question": "?"}], "question 2: 'passages' is missing"),
        ([qa_item(1, preference=[1, 2])], "question 1: preference must be 6 numbers"),
        ([qa_item(1, preference=[1, 1, 1, 1, 1, 3])], "question 1: preference must be 6 numbers"),
        ([qa_item(1, preference=[1, 2, 0, 1, 0, 0])], "question 1: the preferences"),
        ([qa_item(1, gold=None)], "question 1: question, gold, predictions and"),
        ([qa_item(1, passages=["text"])], "question 1: a passage must be"),
        ({}, "expected a JSON list"),
    ],
)
def test_qa_feedback_refuses(items: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "dev_feedback.json"
    path.write_text(json.dumps(items))
    with pytest.raises(DataError) as caught:
        qa_feedback(path)
    assert said in str(caught.value)
    path.write_text(json.dumps(items)[:-3])
    with pytest.raises(DataError, match=r"cut off|expected"):
        qa_feedback(path)


def raw_tables(**tables: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [dict.fromkeys(contract.schema.names) | {"source": "s"} | row for row in tables.get(name, [])]
        for name, contract in TABLES.items()
    }


def test_prepare_normalises_and_fills() -> None:
    tables = prepare(
        raw_tables(
            demonstrations=[{"prompt": " q\r\n1 ", "completion": "a\n", "split": "test"}],
            comparisons=[{"prompt": "q2", "completions": ["x", "  y "], "ranking": [1, 2]}],
            corpus=[{"text": " t "}, {"text": "t"}, {"text": ""}, {"text": "q\n1 a"}],
        ),
        Prepare(),
        seed=1,
    )
    assert tables["demonstrations"][0]["prompt"] == "q\n1"
    assert tables["demonstrations"][0]["completion"] == " a"
    assert tables["comparisons"][0]["completions"] == [" x", " y"]
    assert [(row["prompt"], row["split"]) for row in tables["prompts"]] == [
        ("q\n1", "test"),
        ("q2", tables["comparisons"][0]["split"]),
    ]
    assert [row["text"] for row in tables["corpus"]] == ["t"]  # once, not empty, no test prompt
    for name, contract in TABLES.items():
        assert all(row["id"] == row_id(contract, row) for row in tables[name])


def test_right_ids_stay_right_and_wrong_ids_stay() -> None:
    row = {"prompt": "q", "completion": "a"}
    given = [row | {"id": row_id(DEMONSTRATION, row)}, {"prompt": "r", "completion": "a", "id": "wrong"}]
    done = prepare(raw_tables(demonstrations=given), Prepare(), seed=1)["demonstrations"]
    assert done[0]["id"] == row_id(DEMONSTRATION, done[0]) != given[0]["id"]
    assert done[1]["id"] == "wrong"


def test_splits_are_by_prompt_in_the_shares_asked_for() -> None:
    shares = Prepare(test_share=0.2, judge_share=0.1, validation_share=0.25)
    rows = [{"prompt": f"q{i}", "completion": f"a{j}"} for i in range(4000) for j in range(2)]
    done = prepare(raw_tables(demonstrations=rows), shares, seed=1)["demonstrations"]
    of: dict[str, set[str]] = {}
    for row in done:
        of.setdefault(row["prompt"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in of.values())
    count = {
        split: sum(splits == {split} for splits in of.values()) for split in ("test", "judge", "validation")
    }
    assert abs(count["test"] - 800) < 100  # four standard deviations
    assert abs(count["judge"] - 400) < 76
    assert abs(count["validation"] - 700) < 96  # a quarter of what is left
    assert [split_of(f"q{i}", shares, 1) for i in range(50)] != [
        split_of(f"q{i}", shares, 2) for i in range(50)
    ]


def test_a_split_given_once_holds_for_the_prompt() -> None:
    tables = prepare(
        raw_tables(
            prompts=[{"prompt": "q", "split": "test"}],
            demonstrations=[{"prompt": "q", "completion": "a"}],
            comparisons=[{"prompt": "q", "completions": ["x", "y"], "ranking": [1, 2], "split": "judge"}],
        ),
        Prepare(),
        seed=1,
    )
    assert tables["demonstrations"][0]["split"] == "test"
    assert tables["comparisons"][0]["split"] == "judge"  # contradicts: for `validate` to find
    assert len(tables["prompts"]) == 1


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
