"""Labels in: rows of every table become labels of their kind, and files that cannot be used are one line."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from label_app import DATA
from layout_reading import case

from labeling.__main__ import main
from labeling.contracts import tables
from labeling.imports.files import read_labels
from labeling.imports.storing import store_labels
from labeling.store import Store
from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Options


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
    written = Counter(row["writer_id"] for row in exported["demonstrations"])
    assert written == {"qa-feedback-annotators": 487, "qa-feedback-writers": 500}  # edits and references
    edits = [row for row in exported["comparisons"] if row["policies"][0] == "edited"]
    assert {tuple(row["ranking"]) for row in edits} == {(1, 2)}
    assert 480 < len(edits) <= 487  # an edit that changes nothing is no preference


def written(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ASKED = {"prompt": "Say hi", "source": "letters", "split": "test"}


@pytest.mark.parametrize(
    ("row", "kind", "answer", "outputs"),
    [
        (
            {"completions": ["a", "b"], "ranking": [2, 1], "labeler_id": 7},
            "compare",
            {"ranking": [2, 1], "both_bad": False},
            ("a", "b"),
        ),
        (
            {"completions": ["a", "b"], "ranking": [1, 1], "both_bad": True, "scores": [0.5, 0.5]},
            "compare",
            {"ranking": [1, 1], "both_bad": True, "scores": [0.5, 0.5]},
            ("a", "b"),
        ),
        (
            {"completions": ["a", "b", "c"], "ranking": [3, None, 1.5]},
            "rank",
            {"ranking": [2, None, 1]},
            ("a", "b", "c"),
        ),
        ({"completions": ["a", "b"], "ranking": [1, None]}, "rank", {"ranking": [1, None]}, ("a", "b")),
        ({"chosen": "a", "rejected": "b", "margin": 1.5}, "compare", None, ("a", "b")),
        ({"completion": "\n    return 1\n"}, "edit", {"text": "\n    return 1\n"}, ()),
        ({"completion": "a", "label": False}, "vote", {"vote": "down"}, ("a",)),
        (
            {"reference": "r", "output": "o", "policy": "sft", "preferred": "tie", "judge_kind": "model"},
            "judge",
            {"preferred": "tie", "judge_kind": "model"},
            ("o",),
        ),
    ],
)
def test_a_row_of_each_table_is_a_label(
    row: dict[str, Any], kind: str, answer: dict[str, Any] | None, outputs: tuple[str, ...], tmp_path: Path
) -> None:
    [label] = read_labels(written(tmp_path, [ASKED | row]))
    assert (label.kind, label.outputs, label.prompt, label.split) == (kind, outputs, "Say hi", "test")
    assert label.source == "letters"
    if answer is not None:
        assert label.answer == answer
    else:
        assert (label.answer["ranking"], label.answer["margin"]) == ([1, 2], 1.5)
    assert label.labeler == ("7" if "labeler_id" in row else "unknown")


def test_what_a_comparison_says_besides_is_kept(tmp_path: Path) -> None:
    said = {"note": "Kinder.", "strength": 7, "seconds": 3.5, "shown_order": [1, 0], "policies": ["x", "y"]}
    said |= {"guideline_version": "g2", "labeler_group": "expert", "labeler_id": "ann"}
    [label] = read_labels(written(tmp_path, [ASKED | {"completions": ["a", "b"], "ranking": [1, 2]} | said]))
    assert (label.note, label.strength, label.seconds, label.shown_order) == ("Kinder.", 7, 3.5, (1, 0))
    assert (label.policies, label.guideline_version) == (("x", "y"), "g2")
    assert (label.labeler, label.group) == ("ann", "expert")


def tool_record(value: str, comment: str = "Too short.") -> dict[str, Any]:
    fields = {"instruction": "Say hi", "response-1": "hi", "response-2": "go away"}
    answers = {"better": [{"value": value, "user_id": "u"}], "why": [{"value": comment, "user_id": "u"}]}
    return {"fields": fields, "responses": answers}


def test_an_edit_of_an_output_keeps_it(tmp_path: Path, sqlite: Store) -> None:
    path = tmp_path / "records.json"
    path.write_text(json.dumps([tool_record("response-2")]))
    [compared] = read_labels(path)
    assert (compared.kind, compared.note) == ("compare", "Too short.")
    edited, compared = read_labels(path, Options(edit="why"))
    assert (edited.kind, edited.outputs, edited.answer) == ("edit", ("hi",), {"text": "Too short."})
    assert (compared.kind, compared.note) == ("compare", "")
    with sqlite.write() as tx:
        store_labels(tx, "p", [edited], "f", "test")
        exported = tables(tx, "p")
    assert [row["completion"] for row in exported["demonstrations"]] == ["Too short."]
    assert exported["comparisons"][0]["completions"] == ["Too short.", "hi"]


def test_people_without_a_name_stay_apart_and_replaced_labels_are_counted(
    sqlite: Store, tmp_path: Path
) -> None:
    pair = {"prompt": "p", "completions": ["a", "b"]}
    rows = [pair | {"ranking": ranking} for ranking in ([1, 2], [2, 1], [1, 2])]
    rows += [pair | {"ranking": ranking, "labeler_id": "ann"} for ranking in ([1, 2], [2, 1])]
    notes: list[str] = []
    labels = read_labels(written(tmp_path, rows), notes=notes)
    assert [label.labeler for label in labels] == ["unknown", "unknown-2", "unknown-3", "ann", "ann"]
    with sqlite.write() as tx:
        assert store_labels(tx, "p", labels, "f", "test", notes) == {"compare": 5}
        assert store_labels(tx, "p", labels, "f", "test") == {"compare": 0}
        exported = tables(tx, "p")["comparisons"]
    assert sorted((row["labeler_id"], row["ranking"]) for row in exported) == [
        ("ann", [2, 1]),
        ("unknown", [1, 2]),
        ("unknown-2", [2, 1]),
        ("unknown-3", [1, 2]),
    ]
    assert any("3 rows name no labeler" in note for note in notes)
    assert "1 label replaces what the same person said earlier about the same outputs" in notes


def test_demonstrations_of_nobody_all_stay(sqlite: Store, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": text} for text in ("a", "b")]
    labels = read_labels(written(tmp_path, rows))
    with sqlite.write() as tx:
        store_labels(tx, "p", labels, "f", "test")
        assert len(tables(tx, "p")["demonstrations"]) == 2


def test_a_ranking_of_one_output_is_kept_and_trains_nothing(sqlite: Store, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completions": ["a", "b"], "ranking": [1, None]} for i in range(3)]
    notes: list[str] = []
    labels = read_labels(written(tmp_path, rows), notes=notes)
    assert "3 labels rank fewer than two outputs: kept, and nothing is learnt of that" in notes
    with sqlite.write() as tx:
        store_labels(tx, "p", labels, "f", "test")
        exported = tables(tx, "p")
    assert (len(exported["labels"]), exported["comparisons"]) == (3, [])


def test_the_command_says_how_its_flags_mend_a_file(tmp_path: Path, capsys: Any) -> None:
    db = ["--db", f"sqlite:///{tmp_path / 'x.db'}"]
    path = tmp_path / "records.json"
    path.write_text(json.dumps([tool_record("first is better"), tool_record("second is better")]))
    main([*db, "init"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([*db, "import", "q", str(path)])
    said = capsys.readouterr()
    assert (caught.value.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert "'second is better' (1)" in said.err
    assert "--word 'first is better=first'" in said.err
    assert "ingest." not in said.err
    words = ["--word", "first is better=first", "--word", "second is better=response-2"]
    main([*db, "import", "q", str(path), *words])
    assert "2 new of 2 labels: 2 compare" in capsys.readouterr().out
    for flags, line in (
        (["--word", "first"], "--word first: write it as NAME=VALUE"),
        (["--aspect", "better=much"], "--aspect better=much: 'much' is no number"),
        (["--layout", "pears"], "there is no layout 'pears'"),
    ):
        with pytest.raises(SystemExit):
            main([*db, "import", "q", str(path), *flags])
        assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "a.jsonl",
            '{"prompt": "p", "completions": ["a", "b"], "ranking": [null, null]}',
            "row 1: .* nothing",
        ),
        (
            "a.jsonl",
            '{"prompt": "p", "completions": ["a"], "ranking": [1]}',
            "row 1: 1 completions and 1 rank",
        ),
        ("a.jsonl", '{"prompt": "p"}', "nothing in it is a label: passed over: 1 rows of prompts"),
        ("a.jsonl", '{"prompt": ', "row 1: not valid JSON"),
        (
            "a.json",
            '[{"fields": {"q": "x"}, "responses": {"r": [{"value": "x"}]}}]',
            "row 1: .*--prompt-field",
        ),
        ("a.json", '[{"fields": {"prompt": "x"}, "responses": {"r": ["x"]}}]', "row 1: .*list of objects"),
        ("a.json", '[{"fields": {"prompt": "x", "a": "y"}, "responses": {"r": [{}]}}]', "1 empty answers"),
        ("a.doc", "x", "unknown file type"),
        ("gone.json", None, "no such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    name: str, text: str | None, said: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        read_labels(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("numid.jsonl", ["compare"] * 4),
        ("nolab2.jsonl", ["compare"] * 8),
        ("k12.comparisons.jsonl", ["rank"] * 8),
        ("kto.jsonl", ["vote"] * 6),
        ("code.demonstrations.jsonl", ["edit"] * 6),
        ("hh.jsonl", ["compare"] * 5),
    ],
)
def test_cases(name: str, kinds: list[str], sqlite: Store) -> None:
    labels = read_labels(case(name))
    assert [label.kind for label in labels] == kinds
    with sqlite.write() as tx:
        assert sum(store_labels(tx, "p", labels, name, "test").values()) == len(kinds)
        assert len(tables(tx, "p")["labels"]) == len(kinds)
