"""Conversations in the label store: filled, labeled, exported, imported with their turns; and old stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from label_app import answer, candidates, filled, person
from layout_reading import read_path

import labeling
from labeling.candidates import Candidate, read_candidates
from labeling.contracts import rows_hash, tables
from labeling.exports import FORMATS, export
from labeling.imports.files import read_labels
from labeling.imports.storing import store_labels
from labeling.items import Filling, add_items
from labeling.projects import add_project
from labeling.queues import queue_row
from labeling.rankings import stored_rankings
from labeling.rows import content_hash
from labeling.schema import items, queues
from labeling.store import Store
from labeling.versions import cut_version
from labeling.web.turns import turns
from labeling.work import next_work
from rlhf.data.contracts import COMPARISON, row_id
from rlhf.data.conversations import transcript
from rlhf.data.errors import DataError
from rlhf.data.files_source import files
from rlhf.data.layouts.layout import Options
from rlhf.data.reading import Source

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "And  you?\n"},
]
PROMPT = "System: Be brief.\n\nUser: Hi there\n\nAssistant: Hello.\n\nUser: And  you?\n"
ANSWERS = ("Fine.", "\n- fine\n- thanks")  # white space of a turn's content is kept


def chats(outputs: int = 2, number: int = 1) -> list[Candidate]:
    """Conversations that differ in their last turn."""
    made = []
    for i in range(number):
        messages = [*TURNS[:-1], {"role": "user", "content": f"And  you?{' again' * i}\n"}]
        texts = tuple(ANSWERS[k] if k < 2 else f"answer {k}" for k in range(outputs))
        policies = tuple(f"policy{k}" for k in range(outputs))
        made.append(Candidate(transcript(messages), texts, policies, "I am well.", messages=messages))
    return made


def label_each_kind(store: Store) -> None:
    """A label of each kind of the conversation, and one of a plain prompt."""
    ann = person(store, "ann")
    work, _ = answer(store, ann, filled(store, "compare", chats()), scale=2)
    assert (work.prompt, work.messages) == (PROMPT, TURNS)
    assert sorted(work.texts) == [
        "- fine\n- thanks",
        "Fine.",
    ]  # blanks around an output would betray its writer
    answer(store, ann, filled(store, "rank", chats(3)), ranks=[1, 2, 3])
    answer(store, ann, filled(store, "vote", chats(1)), vote="up")
    answer(store, ann, filled(store, "edit", chats(1)), text="Very well.")
    answer(store, ann, filled(store, "judge", chats(1)), side="left")
    work, _ = answer(store, ann, filled(store, "compare", candidates(1), name="plain"), scale=2)
    assert work.messages is None


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, as the pipeline's ingest reads them."""
    return [item.row for item in read_path(path)[0]]


@pytest.mark.parametrize("form", FORMATS)
def test_what_the_app_exports_the_pipeline_reads(form: str, store: Store, tmp_path: Path) -> None:
    label_each_kind(store)
    with store.read() as tx:
        export(tx, "p", tmp_path / "out", form)
    rows = rows_of(tmp_path / f"out/comparisons.{form}")
    assert len(rows) == 4
    for row in rows:
        assert row["messages"] == (TURNS if row["prompt"] == PROMPT else None)
        assert row["id"] == row_id(COMPARISON, row)
    texts = {text for row in rows if row["messages"] for text in row["completions"]}
    assert texts == {*ANSWERS, "answer 2", "Very well."}
    [edited] = rows_of(tmp_path / f"out/demonstrations.{form}")
    assert (edited["messages"], edited["completion"]) == (TURNS, "Very well.")
    [judgment] = rows_of(tmp_path / f"out/judgments.{form}")
    assert (judgment["messages"], judgment["reference"]) == (TURNS, "I am well.")
    assert (
        files([Source(str(tmp_path / "out"))], "r").tables["demonstrations"][0]["messages"] == TURNS
    )  # what `ingest` reads
    # and another store takes them in as the same items
    other = Store(f"sqlite:///{tmp_path / 'other.db'}")
    with other.write() as tx:
        add_project(tx, "q", "test")
        store_labels(tx, "q", read_labels(tmp_path / f"out/comparisons.{form}"), "file", "test")
        again = tables(tx, "q")["comparisons"]
    assert {row["id"] for row in again} == {row["id"] for row in rows}
    hashes = sa.select(items.c.content_hash).where(items.c.messages.is_not(None))
    with store.read() as here, other.read() as there:
        ranked = hashes.join(queues).where(queues.c.kind.in_(("compare", "rank")))
        assert set(here.scalars(ranked)) <= set(there.scalars(hashes))
    other.close()


def test_a_file_of_conversations_fills_a_queue(store: Store, tmp_path: Path) -> None:
    rows = [
        {"messages": TURNS, "completions": ANSWERS, "policies": ["sft", "ppo"]},
        {"prompt": TURNS[:2], "completions": ANSWERS},  # as TRL writes it
        {"prompt": "plain", "completions": [" a ", "b"]},
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    queue = filled(store, "rank", read_candidates(path))
    with store.read() as tx:
        found = tx.execute(sa.select(items).where(items.c.queue_id == queue)).all()
    kept = {row.prompt: (row.messages, tuple(row.outputs)) for row in found}
    assert kept == {
        PROMPT: (TURNS, ANSWERS),
        "System: Be brief.\n\nUser: Hi there": (TURNS[:2], ANSWERS),
        "plain": (None, ("a", "b")),
    }
    assert filled(store, "vote", read_candidates(path)) != queue
    work = next_work(store, person(store, "ann"), queue)
    assert work
    assert work.messages == kept[work.prompt][0]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (TURNS[:3], "row 1: the last message is the assistant's"),
        ([{"role": "wizard", "content": "x"}], "row 1: message 1 has the role 'wizard'"),
        ([{"role": "user", "content": "a\0b"}], "row 1: message 1 holds a NUL character"),
        ([{"role": "user", "content": "\ud83d"}], "row 1"),
        ([], "row 1: messages are no turns"),
    ],
)
def test_what_is_no_conversation_is_one_line(messages: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": messages, "prompt": "p", "completions": ANSWERS}))
    with pytest.raises(DataError, match=said) as caught:
        read_candidates(path)
    assert "\n" not in str(caught.value)


def test_a_version_of_the_store_is_what_collect_takes(store: Store, tmp_path: Path) -> None:
    label_each_kind(store)
    with store.write() as tx:
        version = cut_version(tx, "p", "test")
    assert version
    url = store.engine.url.render_as_string(hide_password=False)
    rows = stored_rankings(url, "p", version)
    assert [row["messages"] for row in rows].count(TURNS) == 3
    assert stored_rankings(url, "p", version, rows_hash(rows)) == rows


def test_argilla_chat_fields_are_conversations(tmp_path: Path) -> None:
    fields = {"chat": TURNS, "a": ANSWERS[0], "b": ANSWERS[1]}
    responses = {
        "better": [{"value": "b", "user_id": "u"}],
        "edit": [{"value": "Very well.", "user_id": "u"}],
    }
    path = tmp_path / "records.json"
    path.write_text(json.dumps([{"fields": fields, "responses": responses}]))
    edited, compared = read_labels(path, Options(edit="edit"))
    assert (compared.prompt, compared.messages, compared.outputs) == (PROMPT, TURNS, ANSWERS)
    assert compared.answer["ranking"] == [2, 1]
    assert (edited.messages, edited.answer) == (TURNS, {"text": "Very well."})
    path.write_text(json.dumps([{"fields": fields | {"chat": TURNS[:3]}, "responses": responses}]))
    with pytest.raises(DataError, match="row 1: the last message is the assistant's"):
        read_labels(path)


def test_only_what_is_long_and_before_the_last_turn_begins_folded() -> None:
    long = "word " * 400
    contents = [("system", "short"), ("system", long), ("user", long), ("user", "a\n" * 40), ("user", "b")]
    shown = turns([{"role": role, "content": text} for role, text in [*contents, ("user", long)]])
    assert [(turn.foldable, turn.open) for turn in shown] == [
        (True, True),
        (True, False),
        (True, False),
        (True, False),
        (False, True),
        (False, True),
    ]
    assert shown[2].preview == ("word " * 32).rstrip() + "…"
    assert [len(turn.text) for turn in shown] == [len(text) for _, text in contents] + [len(long)]
    [listed] = turns([{"role": "user", "content": "x" * 2500}], listed=True)
    assert listed.text == "x" * 2000 + "…"


def test_a_plain_item_has_the_hash_that_it_always_had() -> None:
    assert content_hash("prompt", ["a", "b"], None) == "26a26d8dc29f7268"
    assert content_hash("prompt", ["a", "b"], None, None) == "26a26d8dc29f7268"
    assert content_hash("prompt", ["a", "b"], None, TURNS) != "26a26d8dc29f7268"


def test_an_old_store_goes_on(url: str) -> None:
    """A store from before there were conversations, opened by whoever only reads it."""
    config = Config()
    config.set_main_option("script_location", str(Path(labeling.__file__).with_name("migrations")))
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for statement in OLD_ROWS:
            connection.exec_driver_sql(statement)
    engine.dispose()
    [row] = stored_rankings(url, "old", 1, OLD_HASH)
    assert (row["prompt"], row["messages"], row["ranking"]) == ("p", None, [2, 1])
    store = Store(url, create=False)
    with store.write() as tx:
        assert add_items(tx, queue_row(tx, "old", "q"), chats(), Filling(), "test") == 1
        assert tx.scalars(sa.select(items.c.messages).order_by(items.c.id)).all() == [None, TURNS]
    store.close()


def test_a_store_of_a_newer_version_is_refused(url: str) -> None:
    store = Store(url)
    with store.write() as tx:
        tx.exec_driver_sql("UPDATE feedback_version SET version_num = '9999'")
    store.close()
    for create in (True, False):
        with pytest.raises(DataError, match="a newer version of this project made the label store"):
            Store(url, create)


# The hash of these rankings, as the last version without conversations made it.
OLD_HASH = "74b1481f674493b987426c320ed6f920088506f05074de10d6c0c4211d8b82da"
OLD_ROWS = (
    "INSERT INTO groups (id, name) VALUES (1, 'labelers')",
    "INSERT INTO users (id, name, role, group_id, active, created) VALUES (1, 'ann', 'labeler', 1, TRUE, 0)",
    "INSERT INTO projects (id, name, created) VALUES (1, 'old', 0)",
    "INSERT INTO queues (id, project_id, name, kind, overlap, lease_seconds, active, created)"
    " VALUES (1, 1, 'q', 'compare', 1, 60, TRUE, 0)",
    "INSERT INTO items (queue_id, role, position, prompt, outputs, policies, source, content_hash, sampling,"
    " propensity, target, taken, created) VALUES (1, 'work', 0, 'p', '[\"a\", \"b\"]', '[\"x\", \"y\"]',"
    " 's', 'h', 'all', 1, 1, 1, 0)",
    "INSERT INTO labels (id, item_id, queue_id, user_id, revision, key, kind, status, answer, shown_order,"
    " labeler_group, content_hash, note, created) VALUES (1, 1, 1, 1, 1, 'k', 'compare', 'given',"
    " '{\"ranking\": [2, 1], \"both_bad\": false}', '[0, 1]', 'labelers', 'h', '', 0)",
    "INSERT INTO versions (id, project_id, number, author, created) VALUES (1, 1, 1, 'test', 0)",
    "INSERT INTO version_labels (label_id, version_id) VALUES (1, 1)",
)
