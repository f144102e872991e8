"""Files that are read in blocks and columns give the rows, notes and errors that they give row by row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.contracts import TABLES
from rlhf.data.errors import DataError
from rlhf.data.files_source import Notes, mixed, mixed_in_portions, write_files
from rlhf.data.formats import json_blocks
from rlhf.data.layouts.layout import Item, Options
from rlhf.data.reading import Quarantined, Source
from rlhf.data.table import read_table

COMPARISON = {
    "prompt": "p",
    "completions": ["a", "b"],
    "ranking": [1, 2],
    "labeler_id": "ann",
    "seconds": 2,
    "split": "train",
}
PAIR = {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 1}
# What a row among plain ones changes, as JSON: it may stand in a block of columns or must be read alone.
ODD = [
    '"ranking": [2, 1]',
    '"ranking": [1, 1]',
    '"ranking": [1, 3]',
    '"ranking": [0.5, 1.5]',
    '"ranking": [1, null]',
    '"ranking": [null, null]',
    '"ranking": []',
    '"ranking": "1"',
    '"ranking": null',
    '"labeler_id": ""',
    '"labeler_id": null',
    '"labeler_id": 7',
    '"seconds": NaN',
    '"seconds": 1e400',
    '"seconds": 9007199254740993',
    '"seconds": -0',
    '"seconds": "1"',
    '"split": ""',
    '"split": "dev"',
    '"split": "elsewhere"',
    '"source": "s"',
    '"source": ""',
    '"prompt": null',
    '"prompt": [{"role": "user", "content": "hi"}]',
    '"prompt": "\\ud800"',
    '"prompt": "é\\u00e9\\ud83d\\ude00\\n\\"\\\\"',
    '"completions": ["a", null]',
    '"completions": ["a", 1]',
    '"completions": null',
    '"messages": [{"role": "user", "content": "p"}]',
    '"messages": null',
    '"unknown": {"x": [1, 2]}',
    '"unknown": NaN',
    '"policies": ["x", "y"], "shown_order": [1, 0], "strength": 3, "note": "n", "both_bad": false',
    '"scores": [0.5, 1], "margin": 2',
    '"strength": 2.0',
    '"strength": 2.5',
    '"prompt": "twice", "prompt": "said"',
    '"chosen": null',
    '"rejected": ["b"]',
    '"score_chosen": 1, "score_rejected": 2',
    '"annotator": "bob"',
    '"prompt": "Human: hi\\n\\nAssistant:"',
    '"prompt": ""',
    '"prompt": "nan"',
    '"completions": ["a", "#N/A"]',
    '"labeler_id": "NaN"',
    '"chosen": "<NA>"',
    '"margin": -1',
    '"image": "a.png"',
    '"context": "what it is about"',
]
LINES = [
    "",
    "  ",
    "[]",
    "1",
    "{}",
    '{"prompt": "p"',
    "{} {}",
    '{"prompt": "p"} x',
    '\ufeff{"prompt": "p"}',
    "\x0c",
]


def with_change(row: dict[str, Any], change: str) -> str:
    said = json.loads("{" + change + "}") if "NaN" not in change and "400" not in change else {}
    names = set(said) or {change.split('"')[1]}
    kept = json.dumps({name: value for name, value in row.items() if name not in names})
    return f"{kept[:-1]}, {change}}}"


def outcome(source: Source, in_portions: bool) -> tuple[Any, ...]:
    """The rows by table, the notes, and what was put aside or refused."""
    notes, aside = Notes(), []
    rows: dict[str, list[dict[str, Any]]] = {}
    error = ""
    try:
        for item in mixed_in_portions([source], notes, aside.append, in_portions=in_portions):
            if isinstance(item, Item):
                rows.setdefault(item.table, []).append(item.row)
            else:
                rows.setdefault(item.table, []).extend(item.batch.to_pylist())
    except DataError as refused:
        error = str(refused)
    for table, told in rows.items():
        names = TABLES[table].schema.names
        rows[table] = [{name: row.get(name) for name in names} for row in told]
    # Where a row is refused, the rows before it are written to nothing.
    return {} if error else rows, notes.lines(), [*map(placed, aside)], error


def placed(row: Quarantined) -> tuple[str, str]:
    return row.where, row.why


@pytest.mark.parametrize("row", [COMPARISON, PAIR], ids=["comparisons", "pairs"])
@pytest.mark.parametrize("unreadable", ["refuse", "quarantine"])
def test_a_row_among_plain_ones_comes_out_the_same(
    row: dict[str, Any], unreadable: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_blocks, "BLOCK", 2000)
    plain = [json.dumps({**row, "prompt": f"p {number}"}) for number in range(260)]
    for number, odd in enumerate([*(with_change(row, change) for change in ODD), *LINES]):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("\n".join([*plain, odd, *plain[:30]]) + "\n" * (number % 2))
        source = Source(str(path), unreadable=unreadable)
        assert outcome(source, True) == outcome(source, False), odd


def test_plain_rows_come_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_blocks, "BLOCK", 2000)
    content = "".join(json.dumps({**COMPARISON, "prompt": f"é {number}"}) + "\r\n" for number in range(300))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + content.encode()))
    source = Source(str(tmp_path / "a.jsonl.gz"))
    items = list(mixed_in_portions([source], Notes(), pytest.fail))
    assert len(items) > 3
    assert not any(isinstance(item, Item) for item in items)
    assert outcome(source, True) == outcome(source, False)


def test_text_in_two_bytes_a_character_is_read_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(COMPARISON) + "\n", encoding="utf-16")
    source = Source(str(tmp_path / "a.jsonl"))
    assert outcome(source, True) == outcome(source, False)
    assert outcome(source, True)[0]["comparisons"]


def test_a_shard_that_spells_conversations_is_read_as_such(tmp_path: Path) -> None:
    rows = [{**PAIR, "prompt": f"p {number}"} for number in range(210)]
    (tmp_path / "a-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = json.dumps([{"role": "user", "content": "hi"}])
    (tmp_path / "a-2.jsonl").write_text(json.dumps({**PAIR, "prompt": said}) + "\n")
    source = Source(str(tmp_path))
    assert outcome(source, True) == outcome(source, False)


def test_columns_that_go_with_the_prompt_are_joined(tmp_path: Path) -> None:
    for name in ("context", "Context", "system", "image"):
        rows = [{**PAIR, "prompt": f"p {number}", name: "more"} for number in range(210)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = Source(str(tmp_path / f"{name}.jsonl"))
        assert outcome(source, True) == outcome(source, False), name


def test_options_that_change_rows_are_obeyed(tmp_path: Path) -> None:
    rows = [{**COMPARISON, "prompt": f"p {number}", "extra_one": 1} for number in range(300)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = str(tmp_path / "a.jsonl")
    for source in (
        Source(path, options=Options(direction="higher")),
        Source(path, options=Options(keep=["*"])),
        Source(path, weight=0.5),
        Source(path, best_answers="demonstrations"),
        Source(path, columns={"note": "labeler_id"}),
        Source(path, name="named", split="test"),
    ):
        assert outcome(source, True) == outcome(source, False)


def test_what_is_written_is_what_is_read_row_by_row(tmp_path: Path) -> None:
    rows = [{**PAIR, "prompt": f"p {number % 90}", "annotator": None} for number in range(400)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(str(tmp_path / "a.jsonl"))
    told = write_files([source], tmp_path / "raw")
    expected = [item.row for item in mixed([source], Notes(), pytest.fail)]
    names = TABLES["comparisons"].schema.names
    written = read_table(tmp_path / "raw/comparisons.parquet", TABLES["comparisons"])
    assert list(written) == [{name: row.get(name) for name in names} for row in expected]
    assert told.rows["comparisons"] == 400
    assert {row["labeler_id"] for row in written} == {"unknown", *(f"unknown-{n}" for n in range(2, 6))}
