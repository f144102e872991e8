"""Sources: a folder of files, and the hash that tells one state from another."""

from __future__ import annotations

import json
from pathlib import Path

from rlhf.data.sources import source_hash
from rlhf.settings import Ingest
from tasks.ingest import load


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
    (tmp_path / "f.csv").write_bytes(b"abc")  # published test vector of SHA-256
    assert (
        source_hash(tmp_path / "f.csv") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_conversations_default_corpus_is_each_conversation_with_its_answer(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How do I store tea?"}]
    rows = [
        {"messages": [*talk, {"role": "assistant", "content": "  Keep it dry.\n"}]},
        {"messages": talk[1:], "completion": "Dry."},
    ]
    (tmp_path / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = load(Ingest(source="files", path=str(tmp_path)), seed=1)
    first, second = raw.tables["demonstrations"]
    assert first == {
        "prompt": "System: Be brief.\n\nUser: How do I store tea?",
        "messages": talk,
        "completion": "  Keep it dry.\n",
        "source": "demonstrations.jsonl",
        "split": None,
    }
    assert (second["prompt"], second["messages"]) == ("How do I store tea?", talk[1:])
    # Each text opens with its prompt, by which held-out ones are kept out of the corpus.
    assert [row["text"] for row in raw.tables["corpus"]] == [
        "System: Be brief.\n\nUser: How do I store tea?\n\nAssistant:   Keep it dry.\n",
        "How do I store tea?\n\nAssistant: Dry.",
    ]
