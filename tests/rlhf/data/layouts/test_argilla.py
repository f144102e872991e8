"""Argilla's records: labels, rankings, ratings and comments become the comparisons that people meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from layout_reading import case, rankings, read_path, read_records

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Notes
from rlhf.data.reading import Source, read

FIELDS = {"instruction": "Say hi", "response-1": "hi", "response-2": "go away"}


def record(fields: dict[str, Any] | None = None, **responses: Any) -> dict[str, Any]:
    """A record of version 2; each response is a value, or (value, person)."""
    asked = {
        question: [
            {"value": value, "user_id": person}
            for value, person in (
                said if isinstance(said, list) and type(said[0]) is tuple else [(said, "u1")]
            )
        ]
        for question, said in responses.items()
    }
    return {"id": "1", "fields": fields or FIELDS, "responses": asked, "suggestions": {}, "metadata": {}}


@pytest.mark.parametrize(
    ("value", "fields", "ranking"),
    [
        ("response-2", FIELDS, [2, 1]),
        ("Response 1", FIELDS, [1, 2]),
        ("A", FIELDS, [1, 2]),
        ("b", FIELDS, [2, 1]),
        ("2", FIELDS, [2, 1]),
        ("Response B", FIELDS, [2, 1]),
        ("tie", FIELDS, [1, 1]),
        # fields in another order, and counted from 0: the name of the field decides, not its place
        ("A", {"q": "", "prompt": "p", "answer_b": "x", "answer_a": "y"}, [1, 2]),
        ("1", {"prompt": "p", "answer_0": "x", "answer_1": "y"}, [2, 1]),
        ("0", {"prompt": "p", "answer_0": "x", "answer_1": "y"}, [1, 2]),
        # two texts that no name orders: a name still names
        ("draft", {"prompt": "p", "draft": "x", "final": "y"}, [1, 2]),
    ],
)
def test_a_label_names_an_output(
    value: str, fields: dict[str, Any], ranking: list[int], tmp_path: Path
) -> None:
    items, _ = read_records(tmp_path, [record(fields, preference=value)])
    assert rankings(items) == [ranking]
    assert [item.table for item in items] == ["comparisons"]


def test_letters_are_refused_where_nothing_says_which_output_is_the_first(tmp_path: Path) -> None:
    fields = {"prompt": "p", "draft": "x", "final": "y"}
    with pytest.raises(DataError, match=r"row 1: answers that name no output: question 'better': 'A' \(1\)"):
        read_records(tmp_path, [record(fields, better="A")])
    items, _ = read_records(tmp_path, [record(fields, better="A")], outputs=["final", "draft"])
    assert (items[0].row["completions"], rankings(items)) == (["y", "x"], [[1, 2]])


def test_words_are_refused_with_all_that_were_met_or_mapped(tmp_path: Path) -> None:
    records = [
        record(preference=[("first is better", "u1"), ("second is better", "u2")]),
        record(preference="hard to say"),
    ]
    with pytest.raises(DataError) as caught:
        read_records(tmp_path, records)
    line = str(caught.value)
    assert "\n" not in line
    for word in ("first is better", "second is better", "hard to say", "ingest.words", "row 1"):
        assert word in line
    words = {"first is better": "first", "Second is better": "response-2", "hard to say": "tie"}
    items, _ = read_records(tmp_path, records, words=words)
    assert rankings(items) == [[1, 2], [2, 1], [1, 1]]
    items, notes = read_records(tmp_path, records, words=words | {"hard to say": "skip"})
    assert rankings(items) == [[1, 2], [2, 1]]
    assert any("passed over: 1 answers to question 'preference' that ingest.words skips" in n for n in notes)
    with pytest.raises(DataError, match=r"ingest.words says that 'hard to say' is 'thirdly'"):
        read_records(tmp_path, records, words=words | {"hard to say": "thirdly"})


def test_numbers_that_count_otherwise_are_never_half_read(tmp_path: Path) -> None:
    fields = {"prompt": "p", "answer_a": "x", "answer_b": "y"}
    records = [record(fields, better=value) for value in ("1", "0", "1")]
    with pytest.raises(DataError, match=r"question 'better': '0' \(1\); map them"):
        read_records(tmp_path, records)
    # Put aside, the row with 0 would leave rows in which 1 is taken for the first answer.
    source = Source(str(tmp_path / "export.json"), unreadable="quarantine")
    with pytest.raises(DataError, match=r"question 'better': '0' \(1\); map them"):
        list(read(source, Notes(), lambda row: None))
    with pytest.raises(DataError, match=r"question 'better': '1' \(2\); map them"):
        read_records(tmp_path, records, words={"0": "first"})
    items, _ = read_records(tmp_path, records, words={"0": "first", "1": "second"})
    assert rankings(items) == [[2, 1], [1, 2], [2, 1]]
    items, _ = read_records(tmp_path, records, words={"0": "tie"})
    assert rankings(items) == [[1, 2], [1, 1], [1, 2]]


def test_free_text_is_a_note_and_an_edit_only_where_the_user_says_so(tmp_path: Path) -> None:
    records = [record(preference="response-2", rationale="The first is rude.")]
    items, _ = read_records(tmp_path, records)
    assert [item.table for item in items] == ["comparisons"]
    assert (items[0].row["note"], rankings(items)) == ("The first is rude.", [[2, 1]])
    items, _ = read_records(tmp_path, records, edit="rationale")
    assert [item.table for item in items] == ["edits", "comparisons"]
    edit = items[0].row
    assert (edit["output"], edit["text"], edit["policy"]) == ("hi", "The first is rude.", "response-1")
    assert items[1].row["note"] is None
    only_comment = [record(comment="Both are short.")]
    with pytest.raises(
        DataError, match=r"nothing in it could be read: passed over: 1 free texts of question"
    ):
        read_records(tmp_path, only_comment)


def test_rankings_by_names_numbers_and_ranks(tmp_path: Path) -> None:
    three = FIELDS | {"response-3": "good morning"}
    ranks = [{"value": "response-3", "rank": 1}, {"value": "response-1", "rank": 1}]
    records = [
        record(three, order=["response-3", "response-1", "response-2"]),
        record(three, order=["2", "1", "3"]),
        record(three, order=[*ranks, {"value": "response-2", "rank": 3}]),
        record(three, order=ranks[:1]),
        record(three, order=["response-3", "response-1"]),
    ]
    items, _ = read_records(tmp_path, records)
    assert rankings(items) == [[2, 3, 1], [2, 1, 3], [1, 2, 1], [None, None, 1], [2, None, 1]]
    with pytest.raises(DataError, match=r"question 'order': 'response-9' \(1\)"):
        read_records(tmp_path, [record(three, order=["response-9", "response-1"])])
    with pytest.raises(DataError, match="ranks '1' twice"):
        read_records(tmp_path, [record(three, order=["response-1", "1"])])


def test_ratings_of_each_answer_rank_them_for_each_person(tmp_path: Path) -> None:
    records = [
        record(**{"rating-1": [(5, "u1"), (1, "u2")], "rating-2": [(2, "u1"), (1, "u2")]}),
        record(**{"response-1_quality": [(1, "u1")], "response-2_quality": [(4, "u1")]}),
    ]
    items, notes = read_records(tmp_path, records)
    assert rankings(items) == [[1, 2], [1, 1], [2, 1]]
    assert [item.row["scores"] for item in items] == [[5, 2], [1, 1], [1, 4]]
    assert [item.row["labeler_id"] for item in items] == ["argilla-u1", "argilla-u2", "argilla-u1"]
    assert "ratings give the ranking of each person: the higher is better" in notes
    items, _ = read_records(tmp_path, records, direction="lower")
    assert rankings(items) == [[2, 1], [1, 1], [1, 2]]
    assert items[0].row["scores"] == [-5, -2]  # a score is higher where the answer is better


def test_ratings_by_aspect_need_their_weights(tmp_path: Path) -> None:
    rated = {"helpful-1": 5, "helpful-2": 1, "safe-1": 1, "safe-2": 4}
    with pytest.raises(DataError, match=r"rated by helpful, safe; say what counts in ingest.aspects"):
        read_records(tmp_path, [record(**rated)])
    items, _ = read_records(tmp_path, [record(**rated)], aspects={"helpful": 1.0, "safe": 2.0})
    assert (rankings(items), items[0].row["scores"]) == ([[2, 1]], [7, 9])
    with pytest.raises(DataError, match="no ratings by 'honest'"):
        read_records(tmp_path, [record(**rated)], aspects={"honest": 1.0})


def test_two_questions_that_order_the_outputs_are_asked_about(tmp_path: Path) -> None:
    records = [record(helpful="response-1", safe="response-2")]
    with pytest.raises(
        DataError, match="questions 'helpful', 'safe' all order the outputs; say which counts"
    ):
        read_records(tmp_path, records)
    items, notes = read_records(tmp_path, records, aspects={"safe": 1.0})
    assert rankings(items) == [[2, 1]]
    assert any("1 answers to question 'helpful', which ingest.aspects leaves out" in note for note in notes)


def test_prompt_system_and_conversation(tmp_path: Path) -> None:
    system = {"system": "Be brief.", **FIELDS}
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    chat.append({"role": "user", "content": "Which?"})
    fields = {"chat": chat, "response-1": "a", "response-2": "b"}
    items, _ = read_records(tmp_path, [record(system, p="A"), record(fields, p="B")])
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hi"}]
    assert [item.row["messages"] for item in items] == [turns, chat]
    assert [item.row["completions"] for item in items] == [["hi", "go away"], ["a", "b"]]
    two = {"instruction": "Sum up", "input": "A long text", "response-1": "a", "response-2": "b"}
    with pytest.raises(DataError, match=r"fields 'instruction' and 'input' could each be the prompt"):
        read_records(tmp_path, [record(two, p="A")])
    items, _ = read_records(tmp_path, [record(two, p="A")], prompt="{instruction}\n\n{input}")
    assert items[0].row["prompt"] == "Sum up\n\nA long text"
    with pytest.raises(DataError, match=r"which of the fields 'x', 'y', 'z' are the outputs"):
        read_records(tmp_path, [record({"prompt": "p", "x": "1", "y": "2", "z": "3"}, p="x")])


def test_version_1_and_flat_records_pass_over_what_was_not_submitted(tmp_path: Path) -> None:
    first = {
        "fields": FIELDS,
        "responses": [
            {"user_id": "u1", "values": {"preference": {"value": "response-2"}}, "status": "submitted"},
            {"user_id": "u2", "values": {"preference": {"value": "response-1"}}, "status": "discarded"},
            {"user_id": "u3", "values": {"preference": {"value": "response-1"}}, "status": "draft"},
        ],
    }
    flat = FIELDS | {
        "id": "r",
        "status": "completed",
        "preference.responses": ["response-2", "response-1"],
        "preference.responses.users": ["u1", "u2"],
        "preference.responses.status": ["submitted", "discarded"],
        "preference.suggestion": "response-1",
    }
    for records in ([first], [flat]):
        items, notes = read_records(tmp_path, records)
        assert (rankings(items), items[0].row["labeler_id"]) == ([[2, 1]], "argilla-u1")
        assert any(note.startswith("passed over: 1 discarded responses") for note in notes)


def test_people_without_a_name_stay_apart(tmp_path: Path) -> None:
    answers = [{"value": "response-1", "user_id": None}, {"value": "response-2"}]
    items, _ = read_records(tmp_path, [record() | {"responses": {"p": answers}}])
    assert rankings(items) == [[1, 2], [2, 1]]
    assert [item.row["labeler_id"] for item in items] == ["unknown", "unknown-2"]


def test_suggestions_and_metadata_are_said(tmp_path: Path) -> None:
    whole = record(p="A") | {"suggestions": {"p": {"value": "response-2"}}, "metadata": {"source": "web"}}
    items, notes = read_records(tmp_path, [whole])
    assert rankings(items) == [[1, 2]]
    assert any("1 records with suggestions" in note for note in notes)
    assert any("metadata of records is not read" in note for note in notes)
    items, _ = read_records(tmp_path, [whole], keep=["metadata"])
    assert items[0].row["extra"] == '{"metadata": {"source": "web"}}'


@pytest.mark.parametrize(
    ("name", "ranking", "number"),
    [
        ("arg-chat.json", [1, 2], 5),
        ("arg-flat.json", [1, 2], 5),
        ("arg-label-AB.json", [2, 1], 5),
        ("arg-rank-123.json", [2, 1, 3], 5),
        ("arg-rank.json", [2, 1, 3], 10),
        ("arg-rating.json", [1, 2], 5),
        ("arg-rationale.json", [1, 2], 5),
        ("arg-system.json", [1, 2], 5),
        ("arg-v1.json", [1, 2], 5),
    ],
)
def test_cases(name: str, ranking: list[int], number: int) -> None:
    items, _ = read_path(case(name))
    assert (rankings(items)[0], len(items)) == (ranking, number)
    assert {item.table for item in items} == {"comparisons"}


def test_an_edit_that_no_question_is_and_an_output_without_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ingest.edit names 'gone', and no text answers to it"):
        read_records(tmp_path, [record(p="A")], edit="gone")
    items, _ = read_records(tmp_path, [record(FIELDS | {"response-1": ""}, p="response-2")])
    assert (items[0].row["completions"], rankings(items)) == (["", "go away"], [[2, 1]])


def test_a_flat_record_of_a_prompt_and_a_response_is_no_demonstration(tmp_path: Path) -> None:
    flat = {"prompt": "Say hi", "response": "hi", "better.responses": ["hello"]}
    flat |= {"better.responses.users": ["u1"], "better.responses.status": ["submitted"]}
    items, _ = read_records(tmp_path, [flat], edit="better")
    row = items[0].row
    assert (items[0].table, row["output"], row["text"]) == ("edits", "hi", "hello")
    flat["better.responses"] = "['hello']"
    with pytest.raises(DataError, match=r"question 'better' are the text .* write lists as JSON"):
        read_records(tmp_path, [flat], edit="better")


# --- as the Hub has them

ASKED = {"prompt": "Say hi", "response-1": "hi", "response-2": "go away", "_server_id": "s"}


def hub(**columns: Any) -> dict[str, Any]:
    """A flat record with one question, `best`."""
    return ASKED | {f"best.{name}": value for name, value in columns.items()}


def test_flat_records_of_the_hub(tmp_path: Path) -> None:
    users = {"responses.users": ["u1", "u2"], "responses.status": ["submitted", "draft"]}
    suggested = {"suggestion": "response-1", "suggestion.score": 0.9, "suggestion.agent": "gpt"}
    said = [hub(responses=["response-2", "response-1"], **users, **suggested), hub(suggestion=None)]
    items, notes = read_records(tmp_path, said)
    assert [(item.row["ranking"], item.row["labeler_id"]) for item in items] == [([2, 1], "argilla-u1")]
    told = "\n".join(notes)
    for passed in ("1 records with suggestions", "1 draft responses", "1 records without a submitted answer"):
        assert passed in told
    items, _ = read_records(tmp_path, [hub(responses=[["response-2", "response-1"], ["1", "2"]])])
    assert [(item.row["ranking"], item.row["labeler_id"]) for item in items] == [
        ([2, 1], "unknown"),
        ([1, 2], "unknown-2"),
    ]
    with pytest.raises(DataError, match="1 records with suggestions, which are no person's answers"):
        read_records(tmp_path, [hub(**suggested)])


@pytest.mark.parametrize(
    "value", ["response-2", [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 2}]]
)
def test_flat_records_of_version_1_on_the_hub(value: Any, tmp_path: Path) -> None:
    said = {"user_id": "u1", "value": value, "status": "submitted"}
    for told in ([said], {name: [inside] for name, inside in said.items()}):
        record = ASKED | {"best": told, "best-suggestion": None, "metadata": "{}", "external_id": None}
        items, _ = read_records(tmp_path, [record])
        assert (rankings(items), items[0].row["labeler_id"]) == ([[2, 1]], "argilla-u1")


def test_rankings_in_whole_numbers(tmp_path: Path) -> None:
    three = FIELDS | {"response-3": "hello"}
    for value, ranking in (
        ([2, 3, 1], [3, 1, 2]),  # an order, as it is in words
        ([{"value": 1, "rank": 2}, {"value": 2, "rank": 1}, {"value": 3, "rank": 1}], [2, 1, 1]),
        ({"response-1": 3, "response-2": 1, "response-3": None}, [2, 1, None]),
    ):
        assert rankings(read_records(tmp_path, [record(three, ranking=[(value, "u1")])])[0]) == [ranking]
    with pytest.raises(DataError, match="lower or higher numbers of 'order' are better is not certain"):
        read_records(tmp_path, [record(order=[({"response-1": 3, "response-2": 1}, "u1")])])
    items, _ = read_records(tmp_path, [record(best=[(2, "u1")])], words={"2": "second"})
    assert rankings(items) == [[2, 1]]


def test_which_model_wrote_an_output_is_no_output(tmp_path: Path) -> None:
    fields = FIELDS | {"model-1": "x", "model-2": "y"}
    items, notes = read_records(tmp_path, [record(fields, best="response-2")])
    assert items[0].row["completions"] == ["hi", "go away"]
    assert any("fields 'model-1', 'model-2' are not read" in note for note in notes)
