"""A prompt that some rows tell as text and others as a lone turn is one conversation in all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlhf.data.contracts import COMPARISON, DEMONSTRATION
from rlhf.data.files_source import write_files
from rlhf.data.reading import Source
from rlhf.data.table import read_table


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_text_becomes_the_turn_that_other_rows_have(tmp_path: Path) -> None:
    given, raw = tmp_path / "given", tmp_path / "raw"
    given.mkdir()
    asked = [{"role": "user", "content": "How do I boil rice?"}]
    longer = [*asked, {"role": "assistant", "content": "Slowly."}, {"role": "user", "content": "Why?"}]
    write(
        given / "demonstrations.jsonl",
        [
            {"prompt": " How do I boil rice?\n", "completion": "\tSlowly."},
            {"prompt": "How do I fold a map?", "completion": "Slowly."},
        ],
    )
    pairs = [{"prompt": prompt, "completions": ["a", "b"], "ranking": [1, 2]} for prompt in (asked, longer)]
    write(given / "comparisons.jsonl", pairs)
    written = write_files([Source(str(given))], raw)
    first, second = read_table(raw / "demonstrations.parquet", DEMONSTRATION)
    assert (first["messages"], second["messages"]) == (asked, None)
    assert first["completion"] == "\tSlowly."
    turns = [row["messages"] for row in read_table(raw / "comparisons.parquet", COMPARISON)]
    assert turns == [asked, longer]
    assert any(note.startswith("1 row has as a text") for note in written.notes)


def test_nothing_is_written_again_where_all_is_text(tmp_path: Path) -> None:
    write(tmp_path / "d.jsonl", [{"prompt": "a", "completion": "b"}])
    written = write_files([Source(str(tmp_path / "d.jsonl"))], tmp_path / "raw")
    assert not any("lone turn" in note for note in written.notes)
