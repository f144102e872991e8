"""Judgments under keys, and lists of which one answer is the best: aspects, people, answers and indices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from layout_reading import rankings, read_records

from rlhf.data.errors import DataError

FIRST, SECOND = [1, 2], [2, 1]
ASK, A, B = "How do I boil rice?", "Slowly.", "Somehow."
PAIR = {"prompt": ASK, "response_a": A, "response_b": B}
LISTED = {"prompt": ASK, "responses": [A, B]}

BY_ASPECT: list[dict[str, Any]] = [
    PAIR | {"preference": {"helpful": "A", "safe": "B"}},
    PAIR | {"preference": json.dumps({"helpful": "A", "safe": "B"})},
    PAIR | {"labels": {"ann": {"helpful": "A", "safe": "B"}}},
    PAIR | {"annotations": [{"aspect": "helpful", "choice": "A"}, {"aspect": "safe", "choice": "B"}]},
    PAIR | {"helpful": "A", "safe": "B"},
    LISTED | {"rankings": {"helpful": [1, 2], "safe": [2, 1]}},
    LISTED | {"scores": {"helpful": [5, 2], "safe": [1, 4]}},
    LISTED | {"ratings": [{"helpful": 5, "safe": 1}, {"helpful": 2, "safe": 4}]},
    LISTED | {"scores": {"ann": {"helpful": [5, 2], "safe": [1, 4]}}},
    {
        "prompt": ASK,
        "answers": [
            {"text": A, "scores": {"helpful": 5, "safe": 1}},
            {"text": B, "scores": {"helpful": 2, "safe": 4}},
        ],
    },
]


@pytest.mark.parametrize("record", BY_ASPECT)
def test_aspects_are_no_people_and_asked_for(record: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'helpful', 'safe'.*ingest.aspects, such as \{helpful: 1\}"):
        read_records(tmp_path, [record])
    for aspect, ranking in (("helpful", FIRST), ("safe", SECOND)):
        items, _ = read_records(tmp_path, [record], aspects={aspect: 1})
        assert rankings(items) == [ranking]
        assert items[0].row["labeler_id"] in ("unknown", "ann")
    if "helpful" not in record:
        with pytest.raises(DataError, match="did you mean 'helpful'"):
            read_records(tmp_path, [record], aspects={"helpfull": 1, "safe": 1})


def test_the_overall_aspect_counts_and_a_sole_one_must_stay_the_same(tmp_path: Path) -> None:
    items, notes = read_records(tmp_path, [PAIR | {"preference": {"safe": "A", "Overall": "B"}}])
    assert rankings(items) == [SECOND]
    assert any("Overall decides" in note for note in notes)
    said = [PAIR | {"preference": {"safe": "A"}}, PAIR | {"preference": {"helpful": "B"}}]
    assert rankings(read_records(tmp_path, said[:1])[0]) == [FIRST]
    with pytest.raises(DataError, match=r"row 2: .* by 'helpful' here, and by 'safe' in an earlier record"):
        read_records(tmp_path, said)
    with pytest.raises(DataError, match="verdicts, which have no weights"):
        read_records(tmp_path, BY_ASPECT[:1], aspects={"helpful": 1, "safe": 0.5})


def test_scores_of_aspects_are_weighed(tmp_path: Path) -> None:
    for record in BY_ASPECT[6:]:
        items, _ = read_records(tmp_path, [record], aspects={"helpful": 0.5, "safe": 1})
        assert (rankings(items), items[0].row["scores"]) == ([SECOND], [3.5, 5])


def test_keys_that_are_people(tmp_path: Path) -> None:
    for record in (
        PAIR | {"preference": {"ann": "A", "ben": "B"}},
        LISTED | {"ranks": {"ann": [1, 2], "ben": [2, 1]}},
    ):
        items, notes = read_records(tmp_path, [record])
        told = [(item.row["labeler_id"], item.row["ranking"]) for item in items]
        assert told == [("ann", FIRST), ("ben", SECOND)]
        assert any("are read as people; where they are aspects, name" in note for note in notes)
    _, notes = read_records(tmp_path, [PAIR | {"preference": {"annotator_1": "A", "annotator_2": "B"}}])
    assert not any("read as people" in note for note in notes)


def test_keys_that_are_the_answers(tmp_path: Path) -> None:
    for judged, ranking in (
        ({"ranking": {"response_b": 1, "response_a": 2}}, SECOND),
        ({"scores": {"A": "2", "B": "4.5"}}, SECOND),
        ({"ratings": {"a": 5, "b": 1}}, FIRST),
    ):
        items, notes = read_records(tmp_path, [PAIR | judged])
        assert rankings(items) == [ranking], judged
        assert any("number is the better" in note for note in notes)
    with pytest.raises(DataError, match="lower or higher numbers of 'votes'"):
        read_records(tmp_path, [PAIR | {"votes": {"A": 3, "B": 1}}])


def test_lists_that_name_each_answer_once_are_asked_for(tmp_path: Path) -> None:
    records = [PAIR | {"preference": ["B", "A"]}, PAIR | {"preference": ["A", "B"]}]
    with pytest.raises(DataError, match=r"where they are orders, the best first, say ingest\.columns"):
        read_records(tmp_path, records)
    items, _ = read_records(tmp_path, [PAIR | {"preference": ["B", "B"]}, *records])
    assert len(items) == 6  # people, of whom some agree


def test_numbers_as_texts(tmp_path: Path) -> None:
    three = LISTED | {"responses": [A, B, "No."]}
    for record in (
        three | {"ranks": ["1", "2.5", "2"]},
        {"prompt": ASK, "completions": [A, B, "No."], "ranking": ["1", "2.5", "2"]},
        {"prompt": ASK, "answer_a": A, "answer_b": B, "answer_c": "No.", "ranking": ["1", "2.5", "2"]},
        {"prompt": ASK, "answers": [{"text": t, "rank": r} for t, r in ((A, "1"), (B, "2.5"), ("No.", "2"))]},
    ):
        assert rankings(read_records(tmp_path, [record])[0]) == [[1, 3, 2]], record
    items, _ = read_records(tmp_path, [three | {"scores": ["1", "2.5", "2"]}])
    assert (rankings(items), items[0].row["scores"]) == ([[3, 1, 2]], [1, 2.5, 2])


# --- the best of a list


@pytest.mark.parametrize(
    ("judged", "wanted"),
    [
        ([{"best": 0}, {"best": 1}], [FIRST, SECOND]),
        ([{"best": 2}, {"best": 1}], None),  # 1 may be the first of two, or the second
        ([{"best_index": "1"}], [SECOND]),
        ([{"preferred_idx": 1}], [SECOND]),
        ([{"chosen": B}], [SECOND]),
        ([{"winner": "A"}, {"winner": "tie"}], [FIRST, [1, 1]]),
        ([{"best": None}, {"best": 0}], [FIRST]),
    ],
)
def test_the_best_of_a_list(
    judged: list[dict[str, Any]], wanted: list[list[int]] | None, tmp_path: Path
) -> None:
    records = [LISTED | said for said in judged]
    if wanted is None:
        records = [record | {"responses": [A, B, "No."]} for record in records]
        with pytest.raises(DataError, match=r"'2' \(1\), '1' \(1\); map them by ingest.words"):
            read_records(tmp_path, records)
        items, _ = read_records(tmp_path, records, words={"1": "first", "2": "second"})
        assert rankings(items) == [[2, 1, 2], [1, 2, 2]]
        return
    assert rankings(read_records(tmp_path, records)[0]) == wanted


def test_indices_that_count_from_one_and_those_that_do_both(tmp_path: Path) -> None:
    three = LISTED | {"responses": [A, B, "No."]}
    items, notes = read_records(
        tmp_path, [three | {"best": 3, "worst": 1}, three | {"best": 1, "worst": None}]
    )
    assert rankings(items) == [[3, 2, 1], [1, 2, 2]]
    assert "column 'best' counts the answers from 1" in notes
    with pytest.raises(DataError, match=r"from 0 \(.*row 2\) and from 1 \(.*row 1, which names the last"):
        read_records(tmp_path, [three | {"best": 3}, three | {"best": 0}])
    with pytest.raises(DataError, match="'best' is 4, but there are 3 answers from 0"):
        read_records(tmp_path, [three | {"best": 0}, three | {"best": 4}])
    with pytest.raises(DataError, match="which is no other answer"):
        read_records(tmp_path, [three | {"best": 0, "worst": 0}])
