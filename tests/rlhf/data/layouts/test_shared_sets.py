"""The sets and case files in ../shared come out as their notes say; skipped where they are not there."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from layout_reading import CASES, case, read_path

from rlhf.data.layouts.layout import Item

DATA = CASES.parent / "data"


def data_set(name: str) -> Path:
    """A set; skipped where it is not there."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no data at {path}")
    return path


def rows_of(items: list[Item], table: str) -> list[dict[str, Any]]:
    return [item.row for item in items if item.table == table]


def test_scitldr_is_a_demonstration_for_each_summary_with_the_splits_of_its_files() -> None:
    items, _ = read_path(data_set("scitldr_a"))
    papers = Counter(row["split"] for row in rows_of(items, "demonstrations") if row["writer_id"] == "author")
    assert papers == {"train": 1992, "validation": 619, "test": 618}
    splits = Counter(row["split"] for row in rows_of(items, "demonstrations"))
    assert splits == {"train": 1992, "validation": 1453, "test": 1967}  # one in train, several elsewhere


def test_qa_feedback_loses_no_preference_and_no_tie() -> None:
    items, _ = read_path(data_set("qa_feedback_dev") / "dev_feedback.json")
    said: Counter[str] = Counter()
    for row in rows_of(items, "comparisons"):
        for a, b in combinations(row["ranking"], 2):
            said["tie" if a == b else "first" if a < b else "second"] += 1
    assert said == {"first": 1577, "second": 1039, "tie": 384}
    assert len(rows_of(items, "demonstrations")) == 500
    assert len(rows_of(items, "edits")) == 487


def test_rated_summaries_are_judged_against_the_reference() -> None:
    items, notes = read_path(data_set("cnndm_human_ratings"))
    judged: dict[str, list[float]] = {}
    points = {"output": 1.0, "tie": 0.5, "reference": 0.0}
    for row in rows_of(items, "judgments"):
        judged.setdefault(row["policy"], []).append(points[row["preferred"]])
    rates = {name: sum(values) / len(values) for name, values in judged.items()}
    assert rates["pointer"] == pytest.approx(0.501)
    assert rates["ml"] == pytest.approx(0.287, abs=5e-4)
    assert rates["seq2seq"] == pytest.approx(0.206)
    # One text is both ml's and ml+rl's, under a name of its own.
    both = [*judged["ml+rl"], *judged["ml;ml+rl"]]
    assert sum(both) / len(both) == pytest.approx(0.345, abs=5e-4)
    assert len(rows_of(items, "comparisons")) == 503
    assert any("2514 ratings of texts that are not in the file" in note for note in notes)


FIRST, SECOND, TIE = (1, 2), (2, 1), (1, 1)


@pytest.mark.parametrize(
    ("name", "rankings"),
    [
        ("hh.jsonl", {FIRST: 5}),
        ("ufb.comparisons.jsonl", {FIRST: 10}),
        ("uf.comparisons.jsonl", {FIRST: 10}),
        ("items-chosen.jsonl", {FIRST: 5}),
        ("helpsteer2.jsonl", {FIRST: 5}),
        ("helpsteer3.jsonl", {FIRST: 2, TIE: 2, SECOND: 2}),
        ("shp.jsonl", {FIRST: 5}),
        ("webgpt.jsonl", {FIRST: 5}),
        ("summ.jsonl", {FIRST: 3, SECOND: 3}),
        ("summ-axis.jsonl", {FIRST: 5}),
        ("pku.jsonl", {FIRST: 3, SECOND: 3}),
        ("arena.jsonl", {FIRST: 2, SECOND: 2, TIE: 4}),
        ("oasst.jsonl", {FIRST: 3}),
        ("nectar.jsonl", {(1, 2, 3, 4, 5, 6, 7): 5}),
        ("numid.jsonl", {FIRST: 4}),
        ("nolab2.jsonl", {FIRST: 4, SECOND: 4}),
        ("k12.comparisons.jsonl", {tuple(range(1, 13)): 8}),
        ("mean-ranks.comparisons.jsonl", {FIRST: 20}),
        ("ranks-half.comparisons.jsonl", {(1, 1, 2): 20}),
        ("ranks-skip.comparisons.jsonl", {(1, 2, 2, 3, 4, 5, 6): 20}),
        ("labeler-id-missing.comparisons.jsonl", {FIRST: 20}),
        ("csv-quoteall.csv", {FIRST: 6}),
        ("csv-semi.csv", {FIRST: 6}),
    ],
)
def test_case_files(name: str, rankings: dict[tuple[int, ...], int]) -> None:
    items, _ = read_path(case(name))
    rows = rows_of(items, "comparisons")
    assert Counter(tuple(row["ranking"]) for row in rows) == rankings
    # The case files put the better answer first, but for those that turn every other row.
    assert all(len(row["completions"]) == len(row["ranking"]) for row in rows)


def test_case_of_votes_and_conversations() -> None:
    items, _ = read_path(case("kto.jsonl"))
    assert Counter(row["label"] for row in rows_of(items, "votes")) == {True: 3, False: 3}
    items, _ = read_path(case("messages.demonstrations.jsonl"))
    assert {row["messages"][0]["role"] for row in rows_of(items, "demonstrations")} == {"system"}


def test_case_of_code_keeps_its_indent() -> None:
    items, _ = read_path(case("code.demonstrations.jsonl"))
    assert rows_of(items, "demonstrations")[0]["completion"] == "\n    def f():\n        return 0\n"


def test_case_of_people_without_a_name_keeps_all_eight() -> None:
    items, notes = read_path(case("nolab2.jsonl"))
    who = Counter(row["labeler_id"] for row in rows_of(items, "comparisons"))
    assert who == {"unknown": 4, "unknown-2": 4}
    assert any("8 rows name no labeler" in note for note in notes)
