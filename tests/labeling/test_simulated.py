"""Simulated labelers in the real app, over HTTP."""

from __future__ import annotations

import random
from itertools import combinations
from types import SimpleNamespace

import httpx
import pytest
import sqlalchemy as sa
from label_app import PASSWORD, filled, person

from flows.simulated_labelers import Sheet, labeling_app, work
from labeling.candidates import Candidate
from labeling.contracts import tables
from labeling.items import Filling, add_items
from labeling.queues import add_queue, queue_row
from labeling.schema import users
from labeling.store import Store
from labeling.web.labeling import sheet_page
from labeling.work import next_work
from rlhf.data.conversations import transcript
from rlhf.data.errors import DataError
from rlhf.world.gold import gold_score
from rlhf.world.posts import draw_post
from rlhf.world.writers import WRITERS, write

CREW = [("expert-01", "expert"), ("expert-02", "expert"), ("spammer-01", "spammer")]


def test_they_sign_in_and_rank_what_they_see(
    sqlite: Store, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("RLHF_STATE", str(tmp_path_factory.mktemp("state")))
    monkeypatch.setenv("LABELING_DB", str(sqlite.engine.url))
    rng, facts, posts = random.Random(1), {}, []
    while len(posts) < 40:
        post = draw_post(rng, 0.5)
        texts = {name: write(post, rng, name)[0].strip() for name in WRITERS}
        if len(set(texts.values())) == len(texts):
            system = {"role": "system", "content": "Summarise the post."}
            messages = [system, {"role": "user", "content": post.text}] if len(posts) % 2 else None
            prompt = transcript(messages) if messages else post.text
            facts[prompt] = post.facts
            names = tuple(texts)
            posts.append(Candidate(prompt, tuple(texts.values()), names, split="train", messages=messages))
    with sqlite.write() as tx:
        add_queue(tx, 1, "round 1", "rank", "test")
        row = queue_row(tx, "p", "round 1")
        add_items(tx, row, posts, Filling(), "test")

    with labeling_app("none") as url:
        with pytest.raises(DataError, match="know the posts of the built-in task only"):
            work(sqlite, url, row.id, CREW[:1], {}, 3)
        assert work(sqlite, url, row.id, CREW, facts, 3) == 40
        assert work(sqlite, url, row.id, CREW, facts, 3) == 0
        form = {"name": "simulated expert-01", "password": PASSWORD}
        same = {"Sec-Fetch-Site": "same-origin"}
        assert httpx.post(f"{url}/login", data=form, headers=same).status_code == 401

    with sqlite.read() as tx:
        rows = tables(tx, "p")["comparisons"]
        active = sa.select(users.c.name).where(users.c.active, users.c.name.startswith("simulated"))
        assert tx.scalars(active).all() == []
    assert {row["labeler_id"] for row in rows} == {f"simulated {name}" for name, _ in CREW}
    assert {row["prompt"] for row in rows} == set(facts)
    assert sum(row["messages"] is not None for row in rows) == 20
    right: dict[str, list[bool]] = {"expert": [], "spammer": []}
    for row in rows:
        scores = [gold_score(facts[row["prompt"]], text) for text in row["completions"]]
        for i, j in combinations(range(len(scores)), 2):
            if abs(scores[i] - scores[j]) > 1 and row["ranking"][i] != row["ranking"][j]:
                right[row["labeler_group"]].append(
                    (scores[i] > scores[j]) == (row["ranking"][i] < row["ranking"][j])
                )
    share = {group: sum(values) / len(values) for group, values in right.items()}
    assert share["expert"] > 0.9
    assert 0.2 < share["spammer"] < 0.8


def test_a_page_is_read_as_a_person_sees_it() -> None:
    sheet = Sheet(
        '<input name="key" value="k&amp;1"><div class="text prompt">a &lt;b&gt;\nTL;DR:</div>'
        '<fieldset><div class="text">one &#39;</div></fieldset><div class="marks">2</div>'
        '<div class="text">two</div>'
    )
    assert (sheet.key, sheet.prompt, sheet.outputs) == ("k&1", "a <b>\nTL;DR:", ["one '", "two"])


def test_a_conversation_is_read_as_its_transcript(sqlite: Store) -> None:
    messages = [
        {"role": "system", "content": "Be brief.\n"},
        {"role": "user", "content": "<div class='text'>Hi</div>"},
        {"role": "assistant", "content": "word " * 400},  # folded at first
        {"role": "user", "content": "And  you?"},
    ]
    chat = Candidate(transcript(messages), ("one", "two"), ("", ""), messages=messages)
    item = next_work(sqlite, person(sqlite, "ann"), filled(sqlite, "rank", [chat]))
    row = SimpleNamespace(name="q", id=1, project_id=1, done=0, last=None)
    assert item
    sheet = Sheet(bytes(sheet_page(None, row, item, 0).body).decode())
    assert (sheet.key, sheet.prompt, sheet.outputs) == (item.key, transcript(messages), item.texts)
