"""Labels in: every layout of a file, and files that cannot be used."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from label_app import DATA

from labeling.contracts import tables
from labeling.imports.files import read_labels
from labeling.imports.label import Fields
from labeling.imports.storing import store_labels
from labeling.store import Store
from rlhf.data.errors import DataError


@pytest.mark.skipif(not DATA.exists(), reason=f"no data at {DATA}")
def test_qa_feedback_comes_in_whole(sqlite: Store) -> None:
    rows = read_labels(DATA / "qa_feedback_dev" / "dev_feedback.json")
    for new in (len(rows), 0):
        with sqlite.write() as tx:
            counts = store_labels(tx, "p", rows, "dev_feedback.json", "test")
        assert sum(counts.values()) == new
    with sqlite.read() as tx:
        exported = tables(tx, "p")
    labeled = [row for row in exported["comparisons"] if row["policies"][0] != "edited"]
    pairs = [pair for row in labeled for pair in combinations(row["ranking"], 2)]
    assert len(pairs) == 3000
    assert sum(a == b for a, b in pairs) == 384
    assert len(exported["demonstrations"]) == 487
    edits = [row for row in exported["comparisons"] if row["policies"][0] == "edited"]
    assert {tuple(row["ranking"]) for row in edits} == {(1, 2)}
    assert 480 < len(edits) <= 487  # an edit that changes nothing is no preference


def record(**responses: Any) -> dict[str, Any]:
    fields = {"instruction": "Say hi", "response-1": "hi", "response-2": "go away"}
    return {"id": "1", "fields": fields, "responses": responses, "suggestions": {}, "metadata": {}}


def test_argilla(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    records = [
        record(preference=[{"value": "response-2", "user_id": "u1"}, {"value": "tie", "user_id": "u2"}]),
        record(order=[{"value": ["response-2", "response-1"], "user_id": "u1"}]),
        record(order=[{"value": [{"value": f"response-{i}", "rank": 1} for i in (1, 2)], "user_id": "u"}]),
        record(
            correction=[{"value": "hello there", "user_id": "u1"}], rating=[{"value": 4, "user_id": "u1"}]
        ),
    ]
    path.write_text(json.dumps(records))
    imported = read_labels(path)
    assert [label.answer.get("ranking") for label in imported] == [[2, 1], [1, 1], [2, 1], [1, 1], None]
    assert [label.kind for label in imported] == ["compare", "compare", "rank", "rank", "edit"]
    assert imported[0].prompt == "Say hi"
    assert imported[0].outputs == ("hi", "go away")
    assert imported[0].labeler == "argilla-u1"
    assert imported[4].answer == {"text": "hello there"}


def test_label_studio(tmp_path: Path) -> None:
    def task(result: dict[str, Any], cancelled: bool = False, **data: Any) -> dict[str, Any]:
        by = {"completed_by": {"id": 7, "email": "a@b.c"}, "lead_time": 4.5, "was_cancelled": cancelled}
        data = {"prompt": "Say hi", "answer1": "hi", "answer2": "go away"} | data
        return {"id": 1, "data": data, "annotations": [{"result": [result]} | by]}

    listed = [{"id": key, "body": f"text {key}"} for key in ("x", "y", "z")]
    path = tmp_path / "project.json"
    pair = {"type": "pairwise", "value": {"selected": "right"}, "from_name": "pw", "to_name": "a,b"}
    tasks = [
        task(pair),
        task(pair, cancelled=True),
        task({"type": "ranker", "value": {"ranker": {"rank": ["z", "x", "y"]}}}, items=listed),
        task({"type": "textarea", "value": {"text": ["hello"]}}),
    ]
    path.write_text(json.dumps(tasks))
    imported = read_labels(path)
    assert [label.answer for label in imported] == [
        {"ranking": [2, 1], "both_bad": False},
        {"ranking": [2, 3, 1]},
        {"text": "hello"},
    ]
    assert imported[0].outputs == ("hi", "go away")
    assert (imported[0].labeler, imported[0].seconds) == ("label-studio-a@b.c", 4.5)
    assert imported[1].outputs == ("text x", "text y", "text z")
    left_out = task({"type": "ranker", "value": {"ranker": {"rank": ["gone", "z", "x"]}}}, items=listed)
    path.write_text(json.dumps([left_out]))
    assert read_labels(path)[0].answer == {"ranking": [2, None, 1]}  # no rank is skipped
    path.write_text(
        json.dumps([task({"type": "ranker", "value": {"ranker": {"rank": "zxy"}}}, items=listed)])
    )
    with pytest.raises(DataError, match="record 1: a ranker's result is a list of items, not 'zxy'"):
        read_labels(path)
    path.write_text(json.dumps(tasks))
    swapped = read_labels(path, Fields("prompt", ("answer2", "answer1")))
    assert swapped[0].outputs == ("go away", "hi")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "a.jsonl",
            '{"prompt": "p", "completions": ["a", "b"], "ranking": [1, null]}',
            "row 1: ranking .* says nothing: it needs the ranks of two",
        ),
        (
            "a.jsonl",
            '{"prompt": "p", "completions": ["a"], "ranking": [1]}',
            "row 1: 1 completions and 1 ranks",
        ),
        ("a.jsonl", '{"prompt": "p"}', "not comparisons"),
        ("a.jsonl", '{"prompt": ', "not valid JSON"),
        ("a.json", '[{"fields": {"q": "x"}, "responses": {"r": [{}]}}]', "record 1: .*--prompt-field"),
        (
            "a.json",
            '[{"fields": {"prompt": "x", "a": "y"}, "responses": {"r": [{}]}}]',
            "record 1: not of the",
        ),
        ("a.txt", "x", "unknown file type"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        read_labels(tmp_path / name)
    assert "\n" not in str(caught.value)
