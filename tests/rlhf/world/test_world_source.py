"""The built-in world as a source: its tables, its corpus, no post twice."""

from __future__ import annotations

import json
import random

import pytest

from rlhf.data.conversations import check_messages, transcript
from rlhf.settings import Ingest
from rlhf.world.parser import parse
from rlhf.world.posts import draw_post
from rlhf.world.source import builtin

SMALL = Ingest(corpus_posts=400, train_posts=100, test_posts=50)


def test_builtin_tables() -> None:
    raw = builtin(SMALL, seed=1)
    tables = raw.tables
    assert {name: len(rows) for name, rows in tables.items()} == {
        "corpus": 400,
        "demonstrations": 150,
        "prompts": 150,
        "comparisons": 0,
        "votes": 0,
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


def test_the_world_told_as_chat_is_the_same_posts_references_and_facts() -> None:
    plain, chat = builtin(SMALL, seed=1), builtin(SMALL.model_copy(update={"chat": True}), seed=1)
    assert chat.tables["corpus"] == plain.tables["corpus"]
    for name in ("demonstrations", "prompts"):
        for row, told in zip(plain.tables[name], chat.tables[name], strict=True):
            check_messages(told["messages"])
            system, user = told["messages"]
            assert (system["role"], user["role"]) == ("system", "user")
            assert user["content"] + "\nTL;DR:" == row["prompt"]
            assert (
                told["prompt"]
                == transcript(told["messages"])
                == f"System: {system['content']}\n\nUser: " + (user["content"])
            )
            same = {"prompt": row["prompt"], "completion": " " + told.get("completion", "")}
            assert {key: value for key, value in told.items() if key != "messages"} | same == (
                {"completion": " "} | row
            )
    for row, told in zip(plain.gold, chat.gold, strict=True):
        assert row["facts"] == told["facts"]
    assert [row["prompt"] for row in chat.gold] == [row["prompt"] for row in chat.tables["prompts"]]
