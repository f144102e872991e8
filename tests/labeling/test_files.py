"""Labels in and out: exports, versions, imports of every shape, sampling, the command line."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from label_app import DATA, answer, candidates, filled, person

from labeling.__main__ import main
from labeling.answers import Choice
from labeling.candidates import Candidate, read_candidates, units
from labeling.contracts import TABLES, tables
from labeling.exports import FORMATS, export
from labeling.imports.files import read_labels
from labeling.imports.label import Fields
from labeling.imports.storing import store_labels
from labeling.items import Filling, add_items
from labeling.labels import store_answer, undo
from labeling.projects import add_project
from labeling.queues import queue_row
from labeling.sampling import disagreement, draw
from labeling.schema import items
from labeling.store import Store
from labeling.versions import cut_version, new_labels
from labeling.work import next_work
from rlhf.data.contracts import COMPARISON, DEMONSTRATION, JUDGMENT, row_id
from rlhf.data.errors import DataError
from rlhf.data.folder import files
from rlhf.data.readers import read_rows
from rlhf.data.table import read_table


def label_some(store: Store) -> None:
    """One label of each kind by `ann`."""
    ann = person(store, "ann", group="expert")
    answer(store, ann, filled(store, "compare", candidates(1)), scale=5)
    answer(store, ann, filled(store, "rank", candidates(1, outputs=4)), ranks=[3, None, 1, 3])
    answer(store, ann, filled(store, "vote", candidates(1, outputs=1)), vote="down")
    answer(store, ann, filled(store, "edit", candidates(1, outputs=1)), text="better")
    answer(store, ann, filled(store, "judge", candidates(1, outputs=1)), side="left")


def test_export_speaks_the_contracts(store: Store, tmp_path: Path) -> None:
    label_some(store)
    with store.read() as tx:
        export(tx, "p", tmp_path / "out")
    rows = read_table(tmp_path / "out/comparisons.parquet", COMPARISON)
    assert len(rows) == 3
    edited = next(row for row in rows if row["policies"][0] == "edited")
    assert (edited["completions"], edited["ranking"]) == (["better", "output 0.0"], [1, 2])
    ranked = next(row for row in rows if len(row["completions"]) == 3)
    assert sorted(ranked["ranking"]) == [1, 2, 2]
    shown = [ranked["ranking"][k] for k in ranked["shown_order"]]
    assert shown == [2, 1, 2]  # positions 0, 2 and 3 of the screen; 1 was left out
    tied = next(row for row in rows if row["ranking"] == [1, 1])
    assert (tied["strength"], tied["labeler_id"], tied["labeler_group"]) == (1, "ann", "expert")
    [judgment] = read_table(tmp_path / "out/judgments.parquet", JUDGMENT)
    assert judgment["preferred"] == ("output" if judgment["shown_order"][0] == 0 else "reference")
    assert judgment["judge_kind"] == "human"
    [demonstration] = read_table(tmp_path / "out/demonstrations.parquet", DEMONSTRATION)
    assert demonstration["completion"] == "better"
    assert demonstration["id"] == row_id(DEMONSTRATION, demonstration)
    assert len(files(tmp_path / "out").tables["comparisons"]) == 3  # what `ingest` reads


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_labels_are_the_same_bytes(form: str, sqlite: Store, tmp_path: Path) -> None:
    label_some(sqlite)
    with sqlite.read() as tx:
        first = export(tx, "p", tmp_path / "a", form)
        export(tx, "p", tmp_path / "a", form)  # over itself
        assert export(tx, "p", tmp_path / "b", form) == first
    names = sorted(f.name for f in (tmp_path / "a").iterdir())
    assert names == [*(f"{name}.{form}" for name in sorted(TABLES)), "manifest.json"]
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    assert len(read_rows(tmp_path / f"a/comparisons.{form}", COMPARISON)) == 3
    # another store with the same labels, given in another order
    other = Store(f"sqlite:///{tmp_path / 'other.db'}")
    rows = read_labels(tmp_path / f"a/comparisons.{form}")
    hashes = []
    for place, order in enumerate((rows, rows[::-1])):
        with other.write() as tx:
            add_project(tx, f"q{place}", "test")
            store_labels(tx, f"q{place}", order, "file", "test")
            manifest = export(tx, f"q{place}", tmp_path / f"q{place}", form)
            hashes.append(manifest["content_hash"])
    assert hashes[0] == hashes[1]


def test_an_export_does_not_remove_a_folder_of_yours(sqlite: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="is no export"), sqlite.read() as tx:
        export(tx, "p", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_versions_use_every_label_once_and_stay_as_they_were(store: Store, tmp_path: Path) -> None:
    ann, queue = person(store, "ann"), filled(store, "compare", candidates(6))
    _, first = answer(store, ann, queue, scale=1)
    answer(store, ann, queue, scale=2)
    with store.write() as tx:
        assert new_labels(tx, "p") == 2
        assert cut_version(tx, "p", "test") == 1
        assert cut_version(tx, "p", "test") is None
    with store.read() as tx:
        before = export(tx, "p", tmp_path / "v1", version=1)
    with store.write() as tx:
        undo(tx, ann, first)  # a correction of a label that was used
    answer(store, ann, queue, scale=9)
    answer(store, ann, queue, scale=3)
    with store.write() as tx:
        assert cut_version(tx, "p", "test") == 2
    with store.read() as tx:
        assert export(tx, "p", tmp_path / "again", version=1) == before
        whole = tables(tx, "p", version=2)["labels"]
        new = tables(tx, "p", version=2, since=1)["labels"]
        assert len(whole) == 3
        assert len(new) == 2
        assert {row["id"] for row in new} < {row["id"] for row in whole}
        with pytest.raises(DataError, match="no version 3; the newest is 2"):
            tables(tx, "p", version=3)


def test_gold_and_repeats_are_not_trained_on(sqlite: Store) -> None:
    ann, queue = person(sqlite, "ann"), filled(sqlite, "compare", candidates(2), repeats=1.0)
    with sqlite.write() as tx:
        gold = [Candidate("g", ("a", "b"), ("", ""), expected={"ranking": [1, 2]})]
        add_items(tx, queue_row(tx, "p", "compare"), gold, Filling("gold"), "test")
    while work := next_work(sqlite, ann, queue):
        with sqlite.write() as tx:
            store_answer(tx, ann, work.key, Choice(scale=1))
    with sqlite.read() as tx:
        found = tables(tx, "p")
    assert Counter(row["role"] for row in found["labels"]) == {"work": 2, "repeat": 2, "gold": 1}
    assert len(found["comparisons"]) == 2


@pytest.mark.skipif(not DATA.exists(), reason=f"no data at {DATA}")
def test_qa_feedback_comes_in_whole(sqlite: Store) -> None:
    rows = read_labels(DATA / "qa_feedback_dev" / "dev_feedback.json")
    for new in (len(rows), 0):
        with sqlite.write() as tx:
            counts = store_labels(tx, "p", rows, "dev_feedback.json", "test")
        assert sum(counts.values()) == new
    with sqlite.read() as tx:
        found = tables(tx, "p")
    labeled = [row for row in found["comparisons"] if row["policies"][0] != "edited"]
    pairs = [pair for row in labeled for pair in combinations(row["ranking"], 2)]
    assert len(pairs) == 3000
    assert sum(a == b for a, b in pairs) == 384
    assert len(found["demonstrations"]) == 487
    edits = [row for row in found["comparisons"] if row["policies"][0] == "edited"]
    assert {tuple(row["ranking"]) for row in edits} == {(1, 2)}
    assert 480 < len(edits) <= 487  # an edit that changes nothing is no preference


def record(**responses: Any) -> dict[str, Any]:
    fields = {"instruction": "Say hi", "response-1": "hi", "response-2": "go away"}
    return {"id": "1", "fields": fields, "responses": responses, "suggestions": {}, "metadata": {}}


def test_argilla(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    given = [
        record(preference=[{"value": "response-2", "user_id": "u1"}, {"value": "tie", "user_id": "u2"}]),
        record(order=[{"value": ["response-2", "response-1"], "user_id": "u1"}]),
        record(order=[{"value": [{"value": f"response-{i}", "rank": 1} for i in (1, 2)], "user_id": "u"}]),
        record(
            correction=[{"value": "hello there", "user_id": "u1"}], rating=[{"value": 4, "user_id": "u1"}]
        ),
    ]
    path.write_text(json.dumps(given))
    found = read_labels(path)
    assert [one.answer.get("ranking") for one in found] == [[2, 1], [1, 1], [2, 1], [1, 1], None]
    assert [one.kind for one in found] == ["compare", "compare", "rank", "rank", "edit"]
    assert found[0].prompt == "Say hi"
    assert found[0].outputs == ("hi", "go away")
    assert found[0].labeler == "argilla-u1"
    assert found[4].answer == {"text": "hello there"}


def test_label_studio(tmp_path: Path) -> None:
    def task(result: dict[str, Any], cancelled: bool = False, **data: Any) -> dict[str, Any]:
        by = {"completed_by": {"id": 7, "email": "a@b.c"}, "lead_time": 4.5, "was_cancelled": cancelled}
        data = {"prompt": "Say hi", "answer1": "hi", "answer2": "go away"} | data
        return {"id": 1, "data": data, "annotations": [{"result": [result]} | by]}

    listed = [{"id": key, "body": f"text {key}"} for key in ("x", "y", "z")]
    path = tmp_path / "project.json"
    pair = {"type": "pairwise", "value": {"selected": "right"}, "from_name": "pw", "to_name": "a,b"}
    given = [
        task(pair),
        task(pair, cancelled=True),
        task({"type": "ranker", "value": {"ranker": {"rank": ["z", "x", "y"]}}}, items=listed),
        task({"type": "textarea", "value": {"text": ["hello"]}}),
    ]
    path.write_text(json.dumps(given))
    found = read_labels(path)
    assert [one.answer for one in found] == [
        {"ranking": [2, 1], "both_bad": False},
        {"ranking": [2, 3, 1]},
        {"text": "hello"},
    ]
    assert found[0].outputs == ("hi", "go away")
    assert (found[0].labeler, found[0].seconds) == ("label-studio-a@b.c", 4.5)
    assert found[1].outputs == ("text x", "text y", "text z")
    left_out = task({"type": "ranker", "value": {"ranker": {"rank": ["gone", "z", "x"]}}}, items=listed)
    path.write_text(json.dumps([left_out]))
    assert read_labels(path)[0].answer == {"ranking": [2, None, 1]}  # no rank is skipped
    path.write_text(
        json.dumps([task({"type": "ranker", "value": {"ranker": {"rank": "zxy"}}}, items=listed)])
    )
    with pytest.raises(DataError, match="record 1: a ranker's result is a list of items, not 'zxy'"):
        read_labels(path)
    path.write_text(json.dumps(given))
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


def test_units_of_each_kind() -> None:
    [one] = candidates(1, outputs=3)
    assert len(units("compare", [one])) == 3
    assert len(units("rank", [one])) == 1
    assert len(units("vote", [one])) == 3
    assert [u.reference for u in units("judge", [one])] == ["reference 0"] * 3
    assert {u.reference for u in units("compare", [one])} == {None}
    with pytest.raises(DataError, match="a reference and another output"):
        units("judge", [Candidate("p", ("a",), ("",))])


def test_propensities_are_the_chances_of_being_drawn() -> None:
    weights = [0.1, 0.1, 0.2, 0.4, 5.0]
    times: Counter[int] = Counter()
    chances: dict[int, float] = {}
    for seed in range(4000):
        drawn = draw(weights, 3, random.Random(seed))
        assert len(drawn) == len({i for i, _ in drawn}) == 3
        times.update(i for i, _ in drawn)
        chances.update(drawn)
    assert chances[4] == 1.0
    for i, chance in chances.items():
        assert times[i] / 4000 == pytest.approx(chance, abs=0.03)
    assert draw([1.0] * 3, 9, random.Random(0)) == [(0, 1.0), (1, 1.0), (2, 1.0)]


def test_sampling_by_disagreement(sqlite: Store, tmp_path: Path) -> None:
    assert disagreement([(1, 2), (2, 1)]) == 1
    assert disagreement([(1, 2), (1, 2)]) == 0
    assert disagreement([(1, 2)]) is None
    rows = []
    for i in range(40):
        for labeler in range(2):  # two people disagree on every fourth
            ranking = [1, 2] if labeler == 0 or i % 4 else [2, 1]
            rows.append({"prompt": f"p{i}", "completions": ["a", "b"], "ranking": ranking})
    path = tmp_path / "ranked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_candidates(path)
    assert len(found) == 40
    filled(sqlite, "compare", found, sampling="disagreement", number=10)
    with sqlite.read() as tx:
        drawn = tx.execute(sa.select(items.c.prompt, items.c.propensity)).all()
    assert len(drawn) == 10
    contested = [row for row in drawn if int(row.prompt[1:]) % 4 == 0]
    assert len(contested) > 5  # 2.5 expected at random
    # weights 1.1 and 0.1: 10 * 1.1 / (10 * 1.1 + 30 * 0.1)
    assert {round(row.propensity, 4) for row in contested} == {round(11 / 14, 4)}
    with pytest.raises(DataError, match="two opinions"):
        filled(sqlite, "compare", candidates(3), name="again", sampling="disagreement", number=2)


def test_the_same_file_again_adds_nothing(sqlite: Store) -> None:
    filled(sqlite, "compare", candidates(5), shared=0.4, shared_overlap=3, seed=3)
    with sqlite.write() as tx:
        row = queue_row(tx, "p", "compare")
        assert add_items(tx, row, candidates(6), Filling(shared=0.4, seed=4), "test") == 1
        roles = Counter(tx.execute(sa.select(items.c.role, items.c.target)).tuples())
    assert set(roles) == {("work", 1), ("shared", 3)}


def test_gold_needs_its_answer(sqlite: Store) -> None:
    filled(sqlite, "compare", candidates(1))
    with sqlite.write() as tx, pytest.raises(DataError, match="needs 'expected'"):
        add_items(tx, queue_row(tx, "p", "compare"), candidates(1), Filling("gold"), "test")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = ["--db", f"sqlite:///{tmp_path / 'x.db'}"]
    with pytest.raises(SystemExit) as caught:
        main([*db, "status"])
    assert caught.value.code == 1
    assert "labeling init" in capsys.readouterr().err
    main([*db, "init"])
    assert "password" in capsys.readouterr().out
    main([*db, "init"])
    assert "password" not in capsys.readouterr().out
    (tmp_path / "c.jsonl").write_text('{"prompt": "p", "completions": ["a", "b"], "ranking": [1, 2]}\n')
    (tmp_path / "g.txt").write_text("Be kind.")
    main([*db, "import", "proj", str(tmp_path / "c.jsonl")])
    main([*db, "guideline", "add", "proj", str(tmp_path / "g.txt")])
    main([*db, "queue", "add", "proj", "q", "--kind", "compare"])
    main([*db, "items", "add", "proj", "q", str(tmp_path / "c.jsonl")])
    main([*db, "user", "add", "ann", "--random-password"])
    main([*db, "user", "token", "ann"])
    main([*db, "export", "proj", str(tmp_path / "out"), "--cut", "--format", "jsonl"])
    main([*db, "status"])
    said = capsys.readouterr().out
    assert "1 new of 1 labels" in said
    assert "0 labels in no version yet" in said
    assert (tmp_path / "out" / "comparisons.jsonl").exists()
    with pytest.raises(SystemExit):
        main([*db, "export", "proj", str(tmp_path / "out"), "--cut"])
    assert "no labels that are in no version" in capsys.readouterr().err


def test_help_shows_commands(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "labeling", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "python -m labeling serve" in done.stdout
