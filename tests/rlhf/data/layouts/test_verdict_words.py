"""The words in which people say which answer is better, that they tie, or that an answer is good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from layout_reading import rankings, read_records

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Notes
from rlhf.data.reading import Source, read

FIRST, SECOND, TIE = [1, 2], [2, 1], [1, 1]
ASK, A, B = "How do I boil rice?", "Slowly.", "Somehow."
PAIR = {"prompt": ASK, "response_a": A, "response_b": B}
FIELDS = {"prompt": ASK, "response-1": A, "response-2": B}


def argilla(said: str) -> dict[str, Any]:
    """A record of Argilla with one answer."""
    return {"fields": FIELDS, "responses": {"better": [{"value": said, "user_id": "u"}]}}


@pytest.mark.parametrize("shape", [lambda said: PAIR | {"winner": said}, argilla])
@pytest.mark.parametrize(
    ("said", "ranking", "both_bad"),
    [
        *((said, FIRST, None) for said in ("Left is better", "A is better", "I prefer A", "A over B", "👈")),
        *(
            (said, SECOND, None)
            for said in ("Response 2", "prefer B to A", "Option B", "[[B]]", "the latter")
        ),
        *(
            (said, TIE, False)
            for said in ("Tie!", "equal", "the same", "Both are equally good", "🤝", "50/50")
        ),
        *((said, TIE, False) for said in ("no preference", "neither is better", "a tie", "Either", "both")),
        *((said, TIE, True) for said in ("Both are bad", "Neither", "neither is good", "both responses bad")),
    ],
)
def test_words_that_are_certain(
    said: str, ranking: list[int], both_bad: bool | None, shape: Any, tmp_path: Path
) -> None:
    items, _ = read_records(tmp_path, [shape(said)])
    assert rankings(items) == [ranking]
    assert bool(items[0].row.get("both_bad")) == bool(both_bad)


@pytest.mark.parametrize(
    "said",
    [
        "A is worse",
        "A 更差",
        "A ✗",
        "!A",
        "B loses to A",
        "A over-explains",
        "A is better than C",
        "none",
        "A/B",
    ],
)
def test_words_that_may_say_the_contrary_are_asked_for(said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="answers that name no output"):
        read_records(tmp_path, [PAIR | {"winner": said}])


def test_of_answers_that_are_not_there_none_is_named(tmp_path: Path) -> None:
    row = {"prompt": ASK, "answer_a": A, "answer_b": None, "answer_c": B}
    whole = {"prompt": "Why?", "answer_a": A, "answer_b": "No.", "answer_c": B, "winner": "B"}
    for said in ("B", "second"):
        with pytest.raises(DataError, match="answers that name no output"):
            read_records(tmp_path, [whole, row | {"winner": said}])
    items, _ = read_records(tmp_path, [whole, row | {"winner": "C"}])
    assert rankings(items) == [[2, 1, 2], SECOND]


def test_a_meaning_that_is_misspelled_is_told(tmp_path: Path) -> None:
    for record in (PAIR | {"winner": "meh"}, argilla("meh")):
        with pytest.raises(DataError, match="did you mean 'both_bad'"):
            read_records(tmp_path, [record], words={"meh": "both_badd"})


# --- thumbs


@pytest.mark.parametrize(
    ("up", "down"), [(1, -1), ("1", "-1"), ("up", "down"), ("👍", "👎🏽"), ("Like", "dislike"), ("+1", "-1")]
)
def test_thumbs_in_words_and_signs(up: Any, down: Any, tmp_path: Path) -> None:
    for answer, column in (("completion", "label"), ("response", "feedback")):
        records = [{"prompt": ASK, answer: A, column: up}, {"prompt": ASK, answer: B, column: down}]
        items, _ = read_records(tmp_path, records)
        assert [(item.table, item.row["label"]) for item in items] == [("votes", True), ("votes", False)]
    turns = [{"role": "user", "content": ASK}, {"role": "assistant", "content": A}]
    items, _ = read_records(tmp_path, [{"messages": turns, "label": up}, {"messages": turns, "label": down}])
    assert [item.row["label"] for item in items] == [True, False]


@pytest.mark.parametrize("answer", ["completion", "response"])
def test_a_column_of_thumbs_makes_no_demonstrations_of_what_people_disliked(
    answer: str, tmp_path: Path
) -> None:
    records = [{"prompt": f"{ASK} {n}", answer: A, "seen_as": "👎" if n % 2 else "👍"} for n in range(4)]
    items, _ = read_records(tmp_path, records)
    assert [(item.table, item.row["label"]) for item in items] == [("votes", n % 2 == 0) for n in range(4)]


def test_zero_beside_minus_one_is_asked_for(tmp_path: Path) -> None:
    for answer in ("completion", "response"):
        records = [{"prompt": f"{ASK} {vote}", answer: A, "label": vote} for vote in (1, 0, -1)]
        with pytest.raises(
            DataError, match=r"no thumb: question 'label': '0' \(1\); map them by ingest.words"
        ):
            read_records(tmp_path, records)
        # Put aside, the row would leave those in which 0 was taken for a bad vote.
        source = Source(str(tmp_path / "export.json"), unreadable="quarantine")
        with pytest.raises(DataError, match="no thumb"):
            list(read(source, Notes(), lambda row: None))
        items, notes = read_records(tmp_path, records, words={"0": "skip"})
        assert [item.row["label"] for item in items] == [True, False]
        assert any("1 votes that ingest.words skips" in note for note in notes)
    items, _ = read_records(tmp_path, records, words={"0": "down"})
    assert [item.row["label"] for item in items] == [True, False, False]
    records = [{"prompt": ASK, "completion": A, "label": vote} for vote in ("meh", "fine")]
    with pytest.raises(DataError, match=r"'meh' \(1\), 'fine' \(1\)"):
        read_records(tmp_path, records)
