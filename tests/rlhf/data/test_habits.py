"""Files with the habits of people and programs: what would be read as something else is not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from layout_reading import rankings, read_path, read_records

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Notes
from rlhf.data.reading import Source, read

ASK, A, B = "How do I boil rice?", "Slowly.", "Somehow."
ASKED = {"role": "user", "content": ASK}


def turns(answer: str) -> list[dict[str, str]]:
    """A conversation that ends with an answer."""
    return [ASKED, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("spell", [json.dumps, str])
def test_conversations_that_texts_spell_are_no_answers(spell: Any, tmp_path: Path) -> None:
    items, notes = read_records(tmp_path, [{"chosen": spell(turns(A)), "rejected": spell(turns(B))}] * 2)
    assert (items[0].row["messages"], items[0].row["completions"]) == ([ASKED], [A, B])
    assert any("texts that spell conversations are read as such" in note for note in notes)
    items, _ = read_records(tmp_path, [{"messages": spell(turns(A))}])
    assert (items[0].row["messages"], items[0].row["completion"]) == ([ASKED], A)
    # JSON that nobody says is an answer like any other
    code = json.dumps([{"text": "x", "value": 1}])
    items, _ = read_records(tmp_path, [{"prompt": ASK, "chosen": code, "rejected": B}])
    assert items[0].row["completions"] == [code, B]


def test_an_empty_prompt_is_not_what_both_answers_begin_with(tmp_path: Path) -> None:
    for prompt in ("", None):
        row = {"prompt": ASK, "chosen": "The cat is in.", "rejected": "The cat was in."}
        with pytest.raises(DataError, match="row 2: the prompt is empty"):
            read_records(tmp_path, [row, row | {"prompt": prompt}])


def test_a_prompt_that_shows_a_picture_is_no_text(tmp_path: Path) -> None:
    for name, shown in (("images", ["a.png"]), ("image", "a.png")):
        row = {"messages": [{"role": "user", "content": "<image>What is it?"}, *turns(A)[1:]], name: shown}
        with pytest.raises(DataError, match=f"row 1: column '{name}' holds what the prompt shows"):
            read_records(tmp_path, [row])
    items, _ = read_records(tmp_path, [{"messages": turns(A), "images": []}])
    assert len(items) == 1


@pytest.mark.parametrize("nothing", ["nan", "NaN", "<NA>", "#N/A"])
def test_words_that_programs_write_for_nothing(nothing: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"prompt,chosen,rejected,margin\na,b,c,{nothing}\nd,{nothing},f,1.5\n")
    items, notes = read_path(path)
    assert [item.row.get("margin") for item in items] == [None, 1.5]
    assert any(f"a text is '{nothing}'" in note and "row 2 is the first" in note for note in notes)
    path.write_text(f"prompt,response_a,response_b,winner\na,b,c,A\nd,{nothing},f,B\ng,h,i,{nothing}\n")
    items, notes = read_path(path)
    assert rankings(items) == [[1, 2]]
    assert {"fewer than two answers", "without a verdict"} <= {
        said for said in ("fewer than two answers", "without a verdict") for note in notes if said in note
    }


def test_turns_of_the_system_and_of_speakers(tmp_path: Path) -> None:
    system = [{"role": "system", "content": said} for said in ("Be kind.", "Be brief.")]
    items, notes = read_records(tmp_path, [{"messages": [*system, *turns(A)]}])
    assert items[0].row["messages"][0] == {"role": "system", "content": "Be kind.\n\nBe brief."}
    assert any("several turns of the system" in note for note in notes)
    with pytest.raises(DataError, match="message 2 is the system's"):
        read_records(tmp_path, [{"messages": [ASKED, system[0], *turns(A)]}])
    spoken = [{"speaker": "Human", "text": ASK}, {"speaker": "bot", "text": A}]
    items, _ = read_records(tmp_path, [{"conversation": spoken}])
    assert (items[0].row["messages"], items[0].row["completion"]) == ([ASKED], A)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("preferred", "dispreferred"),
        ("accepted", "rejected"),
        ("winning_response", "losing_response"),
        ("Better answer", "Worse answer"),
        ("response_j", "response_k"),
        ("answer_good", "answer_bad"),
    ],
)
def test_names_that_say_which_is_better(better: str, worse: str, tmp_path: Path) -> None:
    for one, other in ((better, worse), (worse, better)):
        row = {"question": ASK, one: A if one == better else B, other: B if one == better else A}
        items, notes = read_records(tmp_path, [row])
        assert (items[0].row["completions"], rankings(items)) == ([A, B], [[1, 2]])
        assert any("as their names say" in note for note in notes)
        assert not any("not read" in note for note in notes), notes


def test_a_row_without_its_worse_answer_is_one_line(tmp_path: Path) -> None:
    row = {"question": ASK, "preferred": A, "dispreferred": B}
    with pytest.raises(DataError, match="row 2: two answers are needed"):
        read_records(tmp_path, [row, {"question": ASK, "preferred": A}])


def test_the_best_and_the_worst_may_be_names(tmp_path: Path) -> None:
    row = {"prompt": ASK, "model_1": A, "model_2": B, "best": "model_2", "worst": "model_1"}
    items, _ = read_records(tmp_path, [row])
    assert rankings(items) == [[2, 1]]


def test_answers_that_are_objects_with_a_text(tmp_path: Path) -> None:
    items, _ = read_records(tmp_path, [{"prompt": ASK, "chosen": {"text": A}, "rejected": {"text": B}}])
    assert items[0].row["completions"] == [A, B]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.jsonl", b'// pairs\n{"text": "a"}\n', "row 1: .*that is a comment"),
        ("d.jsonl", b'{"text": "a"},\n{"text": "b"}\n', "row 1: .*leave the comma behind it out"),
        ("d.json", b'[{"text": "a",}]', "leave the comma before it out"),
        ("d.jsonl", b'{"text": ["a",]}', "leave the comma before it out"),
        ("d.jsonl.gz", gzip.compress(gzip.compress(b'{"text": "a"}', mtime=0), mtime=0), "packed twice"),
        ("d.jsonl", b'{"row": {"text": "a"}}', "where row.prompt is what 'row' holds under prompt"),
    ],
)
def test_what_is_not_read_says_how_to_mend_it(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_path(tmp_path / name)
    assert "\n" not in str(caught.value)


# --- what would be turned round, or learnt although it is bad


@pytest.mark.parametrize(
    "name", ["least_preferred", "not_preferred", "worst_choice", "Rejected answer label"]
)
def test_a_column_that_asks_for_the_worse_answer_prefers_none(name: str, tmp_path: Path) -> None:
    row = {"prompt": ASK, "response_a": A, "response_b": B}
    with pytest.raises(DataError, match="no known layout"):
        read_records(tmp_path, [row | {name: "A"}])
    items, _ = read_records(tmp_path, [row | {name: "A", "winner": "B"}])
    assert rankings(items) == [[2, 1]]
    fields = {"prompt": ASK, "response-1": A, "response-2": B}
    said = {name: [{"value": "response-1", "user_id": "u"}]}
    with pytest.raises(DataError, match="which asks for the worse output"):
        read_records(tmp_path, [{"fields": fields, "responses": said}])
    said |= {"best": [{"value": "response-2", "user_id": "u"}]}
    assert rankings(read_records(tmp_path, [{"fields": fields, "responses": said}])[0]) == [[2, 1]]


@pytest.mark.parametrize("name", ["is_safe", "accepted", "isCorrect", "flagged"])
@pytest.mark.parametrize(
    "row", [{"prompt": ASK, "completion": A}, {"question": ASK, "answer": A}, {"messages": turns(A)}]
)
def test_answers_that_are_judged_are_no_demonstrations_unasked(
    row: dict[str, Any], name: str, tmp_path: Path
) -> None:
    records = [row | {name: good} for good in (True, False)]
    with pytest.raises(DataError, match=rf"column '{name}' says which answers are good: .*label: {name}"):
        read_records(tmp_path, records)
    path = tmp_path / "export.json"
    items = list(read(Source(str(path), columns={"label": name}), Notes()))
    assert [(item.table, item.row["label"]) for item in items] == [("votes", True), ("votes", False)]


def test_a_choice_among_options_is_no_answer_by_itself(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no known layout"):
        read_records(tmp_path, [{"question": ASK, "options": {"A": A, "B": B}, "answer": "A"}])


def test_answers_with_a_flag_for_the_chosen(tmp_path: Path) -> None:
    answers = [{"text": A, "is_best": False}, {"text": B, "is_best": True}]
    assert rankings(read_records(tmp_path, [{"prompt": ASK, "responses": answers}])[0]) == [[2, 1]]


def test_a_margin_below_zero_is_told(tmp_path: Path) -> None:
    items, notes = read_records(tmp_path, [{"prompt": ASK, "chosen": A, "rejected": B, "margin": -1}])
    assert rankings(items) == [[1, 2]]
    assert any("margins are below 0" in note for note in notes)
