"""Filling queues: items of each kind, the chances of a drawing, gold."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from label_app import candidates, filled

from labeling.candidates import Candidate, read_candidates, units
from labeling.items import Filling, add_items
from labeling.queues import queue_row
from labeling.sampling import disagreement, draw
from labeling.schema import items
from labeling.store import Store
from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Options


def test_units_of_each_kind() -> None:
    [candidate] = candidates(1, outputs=3)
    assert len(units("compare", [candidate])) == 3
    assert len(units("rank", [candidate])) == 1
    assert len(units("vote", [candidate])) == 3
    assert [item.reference for item in units("judge", [candidate])] == ["reference 0"] * 3
    assert {item.reference for item in units("compare", [candidate])} == {None}
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
    ranked = read_candidates(path)
    assert len(ranked) == 40
    filled(sqlite, "compare", ranked, sampling="disagreement", number=10)
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


@pytest.mark.parametrize(
    ("row", "kind", "outputs"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "compare", [("a", "b")]),
        (
            {"prompt": "p", "completions": ["a", "b"], "ranking": [2, 1], "topic": "home"},
            "rank",
            [("a", "b")],
        ),
        ({"prompt": [{"role": "user", "content": "p"}], "completions": ["a", "b"]}, "compare", [("a", "b")]),
        ({"prompt": "p", "completion": "a"}, "vote", [("a",)]),
        ({"prompt": "p", "completion": "a", "label": True}, "vote", [("a",)]),
        ({"prompt": "p", "output": "a", "scores": [0.5]}, "edit", [("a",)]),
        (
            {"prompt": "p", "reference": "r", "output": "a", "policy": "sft", "preferred": "tie"},
            "judge",
            [("a",)],
        ),
    ],
)
def test_files_of_any_layout_fill_a_queue(
    row: dict[str, Any], kind: str, outputs: list[tuple[str, ...]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    notes: list[str] = []
    items_of = units(kind, read_candidates(path, notes=notes))
    assert [item.outputs for item in items_of] == outputs
    assert items_of[0].prompt == "p"
    if kind == "judge":
        assert items_of[0].reference == "r"
    if "topic" in row:
        assert any("'topic'" in note for note in notes)
    if "ranking" in row:
        assert items_of[0].scores == ((-2, -1),)


def test_a_csv_fills_a_queue(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completions,policies,reference\np,"[""a"", ""b""]","[""x"", ""y""]",\n')
    [candidate] = read_candidates(path)
    assert (candidate.outputs, candidate.policies, candidate.reference) == (("a", "b"), ("x", "y"), None)
    path.write_text("prompt,completions\np,a b\n")
    with pytest.raises(DataError, match="row 1: column 'completions': 'a b' is no list"):
        read_candidates(path)


def test_more_outputs_than_can_be_shown_are_ranked_in_parts_that_share_outputs() -> None:
    for number in (9, 10, 12, 16, 21, 40):
        [candidate] = candidates(1, outputs=number)
        parts = [set(item.outputs) for item in units("rank", [candidate])]
        assert set.union(*parts) == set(candidate.outputs)
        assert max(map(len, parts)) == min(number, 9)
        assert all(len(part & following) >= 3 for part, following in pairwise(parts))
    assert len(units("compare", candidates(1, outputs=12))) == 66


def test_a_file_of_a_tool_is_read_as_the_user_says(tmp_path: Path) -> None:
    fields = {"prompt": "p", "draft": "a", "final": "b"}
    records = [{"fields": fields, "responses": {"better": [{"value": "A", "user_id": "u"}]}}]
    path = tmp_path / "records.json"
    path.write_text(json.dumps(records))
    with pytest.raises(DataError, match="'better': 'A'"):
        read_candidates(path)
    [candidate] = read_candidates(path, options=Options(words={"A": "first"}))
    assert candidate.outputs == ("a", "b")


def test_rows_without_an_output_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p"}\n')
    with pytest.raises(DataError, match=r"row 1: a row of prompts has no output to label"):
        read_candidates(path)
