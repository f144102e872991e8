"""Labels out: the contracts, the same bytes for the same labels, and versions."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest
from label_app import answer, candidates, filled, person
from layout_reading import read_path

from labeling.answers import Choice
from labeling.candidates import Candidate
from labeling.contracts import TABLES, rows_hash, tables
from labeling.exports import FORMATS, export
from labeling.imports.files import read_labels
from labeling.imports.label import ImportedLabel
from labeling.imports.storing import store_labels
from labeling.items import Filling, add_items
from labeling.labels import store_answer, undo
from labeling.projects import add_project
from labeling.queues import queue_row
from labeling.rankings import stored_rankings
from labeling.store import Store
from labeling.versions import cut_version, new_labels
from labeling.work import next_work
from rlhf.data.contracts import COMPARISON, DEMONSTRATION, JUDGMENT, row_id
from rlhf.data.errors import DataError
from rlhf.data.files_source import files
from rlhf.data.formats.csv_files import read_csv
from rlhf.data.reading import Source
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
    ranked = next(row for row in rows if len(row["completions"]) == 4)
    shown = [ranked["ranking"][k] for k in ranked["shown_order"]]
    assert shown == [2, None, 1, 2]  # the output on position 1 of the screen was not ranked, and stays
    tied = next(row for row in rows if row["ranking"] == [1, 1])
    assert (tied["strength"], tied["labeler_id"], tied["labeler_group"]) == (1, "ann", "expert")
    [judgment] = read_table(tmp_path / "out/judgments.parquet", JUDGMENT)
    assert judgment["preferred"] == ("output" if judgment["shown_order"][0] == 0 else "reference")
    assert judgment["judge_kind"] == "human"
    [demonstration] = read_table(tmp_path / "out/demonstrations.parquet", DEMONSTRATION)
    assert demonstration["completion"] == "better"
    assert demonstration["id"] == row_id(DEMONSTRATION, demonstration)
    assert len(files([Source(str(tmp_path / "out"))], "r").tables["comparisons"]) == 3  # what `ingest` reads


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_labels_are_the_same_bytes(form: str, sqlite: Store, tmp_path: Path) -> None:
    label_some(sqlite)
    with sqlite.read() as tx:
        first = export(tx, "p", tmp_path / "a", form)
        export(tx, "p", tmp_path / "a", form)  # over itself
        assert export(tx, "p", tmp_path / "b", form) == first
    names = sorted(f.name for f in (tmp_path / "a").iterdir())
    assert names == sorted([*(f"{name}.{form}" for name in TABLES), "manifest.json"])
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    assert len(read_path(tmp_path / f"a/comparisons.{form}")[0]) == 3
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
        exported = tables(tx, "p")
    assert Counter(row["role"] for row in exported["labels"]) == {"work": 2, "repeat": 2, "gold": 1}
    assert len(exported["comparisons"]) == 2


def test_outputs_that_nobody_ranked_leave_the_hash_of_older_versions(sqlite: Store) -> None:
    partial = [([1, None, 1, 2], (3, 1, 0, 2)), ([1, 2], None), ([None, 1, 2], (2, 0, 1))]
    labels = [
        ImportedLabel(
            kind="rank" if len(ranking) > 2 else "compare",
            prompt=f"q{number}",
            outputs=tuple(f"out {k}" for k in range(len(ranking))),
            answer={"ranking": ranking},
            labeler="ann",
            policies=tuple("abcd"[: len(ranking)]),
            shown_order=order,
        )
        for number, (ranking, order) in enumerate(partial)
    ]
    with sqlite.write() as tx:
        add_project(tx, "old", "test")
        store_labels(tx, "old", labels, "f", "test")
    with sqlite.read() as tx:
        rows = tables(tx, "old")["comparisons"]
    assert sorted(row["ranking"] for row in rows if None not in row["ranking"]) == [[1, 2]]
    # what the hash was when exports left such outputs out
    assert rows_hash(rows) == "4a1fbd9849d692afb0374ad80e353fd26433a11d48661ea37c8ba8fc4b92411c"


def test_votes_of_a_version_are_not_trained_on_and_that_is_said(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/votes.db"
    store = Store(url)
    with store.write() as tx:
        add_project(tx, "p", "test")
    ann = person(store, "ann")
    for form in ("vote", "compare"):
        queue = filled(store, form, candidates(1, outputs=1 if form == "vote" else 2))
        answer(store, ann, queue, **({"vote": "up"} if form == "vote" else {"scale": 1}))
        with store.write() as tx:
            cut_version(tx, "p", "test")
    store.close()
    with pytest.raises(
        DataError, match=r"holds no rankings; .*; its 1 votes are not trained on from the store"
    ):
        stored_rankings(url, "p", 1)
    said: list[str] = []
    assert len(stored_rankings(url, "p", 2, say=said.append)) == 1
    assert (
        [line for line in said if "1 votes are not trained on from the store: export them" in line]
        == said
        != []
    )


FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(1)",
    "\t=1",
    " =1",
    "'=1",
    "''",
    "- a point\n- another",
    "a = 1",
    "\uff1d1",
]


def test_no_text_of_a_csv_export_is_a_formula_and_each_comes_back(sqlite: Store, tmp_path: Path) -> None:
    """A spreadsheet would run them; a file apart from its manifest is anybody's and read as it is."""
    ann = person(sqlite, "@ann", group="=group")
    queue = filled(sqlite, "edit", [Candidate(f"{text}p", (f"{text}o",), ("=sft",)) for text in FORMULAS])
    for text in FORMULAS:
        answer(sqlite, ann, queue, text=f"{text}e")
    with sqlite.read() as tx:
        export(tx, "p", tmp_path / "csv", "csv")
        rows = tables(tx, "p")["demonstrations"]
    for name in ("demonstrations", "labels"):
        with (tmp_path / f"csv/{name}.csv").open(newline="", encoding="utf-8") as file:
            cells = [cell for row in list(csv.reader(file))[1:] for cell in row]
        assert len(cells) > 50
        assert not [cell for cell in cells if cell.strip()[:1] in ("=", "+", "-", "@", "\uff1d")]
    path = tmp_path / "csv/demonstrations.csv"
    read = [row for _, row in read_csv(path, ".csv", pytest.fail, print)]
    for column in ("prompt", "completion", "writer_id"):
        assert [row[column] for row in read] == [row[column] for row in rows]
    alone = tmp_path / "alone.csv"
    alone.write_bytes(path.read_bytes())
    assert [row["writer_id"] for _, row in read_csv(alone, ".csv", pytest.fail, print)] == ["'@ann"] * len(
        rows
    )
