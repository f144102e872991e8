"""The QA-feedback preferences: questions, rankings of pairs, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.errors import DataError
from rlhf.data.qa_feedback import PROMPT_CHARS, qa_feedback, ranking_of_pairs


# Pairs in the order (1,2) (1,3) (1,4) (2,3) (2,4) (3,4); 1 first better, 2 second better, 0 tie.
@pytest.mark.parametrize(
    ("preferences", "ranking"),
    [
        ([1, 1, 1, 1, 1, 1], [1, 2, 3, 4]),
        ([2, 2, 2, 2, 2, 2], [4, 3, 2, 1]),
        ([0, 0, 0, 0, 0, 0], [1, 1, 1, 1]),
        ([0, 1, 1, 1, 1, 0], [1, 1, 2, 2]),
        ([1, 1, 2, 0, 2, 2], [2, 3, 3, 1]),
        ([0, 1, 2, 1, 0, 2], [2, 1, 3, 1]),  # 4 beats 1, both tie with 2: a tie is broken, no preference lost
        ([1, 0, 0, 1, 1, 0], [1, 2, 3, 3]),
    ],
)
def test_pairs_become_a_ranking(preferences: list[int], ranking: list[int]) -> None:
    assert ranking_of_pairs(preferences) == ranking


@pytest.mark.parametrize("preferences", [[1, 2, 0, 1, 0, 0], [1, 0, 2, 1, 0, 1]])
def test_preferences_in_a_circle_are_refused(preferences: list[int]) -> None:
    with pytest.raises(DataError, match=r"the preferences .* go in a circle"):
        ranking_of_pairs(preferences)


def qa_item(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "question": f"who is number {number}?",
        "passages": [["Numbers", "Numbers\n\nA number  is a count.", "word " * 200], ["Shared", "The same."]],
        "gold": f"It is {number}. ",
        "preference": [1, 1, 1, 0, 1, 1],
        **{f"prediction {i}": f"answer {i}" for i in range(1, 5)},
        **changes,
    }


def test_qa_feedback_rows(tmp_path: Path) -> None:
    path = tmp_path / "dev_feedback.json"
    path.write_text(json.dumps([qa_item(1), qa_item(2, passages=[])]))
    tables = qa_feedback(path).tables
    first = tables["demonstrations"][0]
    assert first["prompt"].startswith(
        "QUESTION: who is number 1?\nPASSAGES: Numbers: Numbers A number is a count. word"
    )
    assert first["prompt"].endswith("word\nANSWER:")
    assert PROMPT_CHARS - 6 < len(first["prompt"]) <= PROMPT_CHARS
    assert tables["demonstrations"][1]["prompt"] == "QUESTION: who is number 2?\nPASSAGES: \nANSWER:"
    assert tables["comparisons"][0]["ranking"] == [1, 2, 2, 3]
    assert tables["comparisons"][0]["completions"] == ["answer 1", "answer 2", "answer 3", "answer 4"]
    texts = [row["text"] for row in tables["corpus"]]
    assert texts[1] == "Shared: The same."
    assert len(texts) == len(set(texts)) == 4  # two passages, two prompts


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([qa_item(1), {"question": "?"}], "question 2: 'passages' is missing"),
        ([qa_item(1, preference=[1, 2])], "question 1: preference must be 6 numbers"),
        ([qa_item(1, preference=[1, 1, 1, 1, 1, 3])], "question 1: preference must be 6 numbers"),
        ([qa_item(1, preference=[1, 2, 0, 1, 0, 0])], "question 1: the preferences"),
        ([qa_item(1, gold=None)], "question 1: question, gold, predictions and"),
        ([qa_item(1, passages=["text"])], "question 1: a passage must be"),
        ({}, "expected a JSON list"),
        ([], "holds no questions"),
    ],
)
def test_qa_feedback_refuses(items: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "dev_feedback.json"
    path.write_text(json.dumps(items))
    with pytest.raises(DataError) as caught:
        qa_feedback(path)
    assert said in str(caught.value)
    path.write_text(json.dumps(items)[:-3])
    with pytest.raises(DataError, match=r"cut off|expected|no questions|empty"):
        qa_feedback(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [("[1" + "0" * 5000 + "]", "a number is too long"), ("[" * 100_000, "lists within lists too deep")],
)
def test_json_that_python_cannot_hold_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "dev_feedback.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"cannot be read \\({said}\\)"):
        qa_feedback(path)
