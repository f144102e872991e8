"""`make peek`: what was recognised, the first preference as a person reads it, counts, what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows import peek as command
from rlhf.data.peek import peek, readable, summary
from rlhf.data.reading import Source


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ranked(i: int, ranking: list[int | None], **more: Any) -> dict[str, Any]:
    return {"prompt": f"question {i}", "completions": ["a", "b", "c"], "ranking": ranking, **more}


ROWS = [
    ranked(1, [2, 1, 1], labeler_id="ann"),
    ranked(1, [2, 1, 1], labeler_id="bob"),
    ranked(2, [1, None, 2], labeler_id="ann"),
]


def test_counts_by_hand(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder / "comparisons.jsonl", ROWS)
    write(folder / "demonstrations-test.jsonl", [{"prompt": "Question  1", "completion": "two words"}])
    seen = peek([Source(str(folder))])
    comparisons, demonstrations = seen.tables["comparisons"], seen.tables["demonstrations"]
    assert (comparisons.rows, len(comparisons.prompts), comparisons.labelers) == (3, 2, {"ann", "bob"})
    assert (comparisons.pairs, comparisons.ties) == (
        7,
        2,
    )  # three, three and one pair; one tie in each of two
    assert comparisons.copies == 1  # bob says what ann says
    assert comparisons.lengths == [3] * 9
    assert demonstrations.splits == {"test": 1}
    assert demonstrations.lengths == [4]
    assert seen.first.table == "comparisons"


def test_the_first_row_shown_is_the_one_that_says_most(tmp_path: Path) -> None:
    paper = {"source": ["One sentence.", "Another."], "target": ["A summary."], "title": "T"}
    alone = peek([Source(str(write(tmp_path / "papers.jsonl", [paper])))])
    assert list(alone.tables) == ["corpus", "demonstrations"]  # in the order of reading
    assert alone.first.table == "demonstrations"
    both = [Source(str(tmp_path / "papers.jsonl")), Source(str(write(tmp_path / "ranked.jsonl", ROWS)))]
    assert peek(both).first.table == "comparisons"


def test_a_row_reads_from_best_to_worst(tmp_path: Path) -> None:
    path = write(tmp_path / "comparisons.jsonl", [ranked(7, [2, None, 1])])
    text = readable(peek([Source(str(path))]).first)
    assert text.split("\n") == [
        "  prompt: question 7",
        "  rank 1 (best): c",
        "  rank 2: a",
        "  not ranked: b",
    ]


def test_further_lines_of_a_text_stand_behind_its_first(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"prompt": "Write a list.", "completion": "one\n\nrank 2: two"}])
    text = readable(peek([Source(str(path))]).first)
    assert text == "  prompt: Write a list.\n  completion: one\n\n    rank 2: two"


def test_without_data_the_command_asks_for_some(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main([])
    assert "make peek DATA=PATH" in capsys.readouterr().err


def test_lengths_in_a_line() -> None:
    assert summary([5]) == "5"
    assert summary(list(range(1, 101))) == "median 50, 95 % up to 95, longest 100"
    assert summary([10, 14]) == "median 12, 95 % up to 14, longest 14"


def test_the_command_shows_the_preference_the_right_way_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(
        tmp_path / "pairs.jsonl",
        [{"prompt": "Which?", "chosen": "This.", "rejected": "That.", "colour": "red"}],
    )
    command.main(["--data", str(path)])
    shown = capsys.readouterr().out
    assert "pairs.jsonl: pairs, " in shown
    assert "columns prompt, chosen, rejected, colour" in shown
    assert shown.index("rank 1 (best): This.") < shown.index("rank 2: That.")
    assert "column 'colour' not read" in shown
    assert "1 row, 1 prompt, 1 person, 0 of 1 pair tied" in shown


def test_what_ingest_would_refuse_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": "Which?", "chosen": "This.", "rejected": text} for text in ("That.", "Those.", 3)]
    path = write(tmp_path / "pairs.jsonl", rows)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        command.main(["--data", str(path)])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "row 3" in error
    assert sorted(tmp_path.rglob("*")) == before


def test_rows_for_quarantine_are_counted_with_one_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "a", "chosen": "x", "rejected": text} for text in ("y", "z", 3)]
    path = write(tmp_path / "pairs.jsonl", rows)
    command.main(["--data", str(path), "--set", "ingest.unreadable=quarantine"])
    assert "1 row would go to quarantine, such as" in capsys.readouterr().out
