"""Layouts as people vary them: several turns, other names and scales, gaps, and what is uncertain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from layout_fixtures import FIXTURES, assistant, human, user
from layout_reading import rankings, read_path, read_records

from rlhf.data.errors import DataError

FIRST, SECOND, TIE = [1, 2], [2, 1], [1, 1]
ASK, A, B = "How do I boil rice?", "Slowly.", "Somehow."


def read_csv(folder: Path, *lines: str, **options: Any) -> list[list[int | None]]:
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return rankings(read_path(path, **options)[0])


def refused(folder: Path, records: list[dict[str, Any]], **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_records(folder, records, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- transcripts


def test_a_transcript_of_several_turns_with_a_system_text_and_markers_inside_words(tmp_path: Path) -> None:
    front = "Be kind.\n\nHuman: Hi, I am Human: a being\n\nAssistant: Hello.\n\nSecond part."
    asked = "\n\nHuman: Why?\n\nAssistant:"
    items, _ = read_records(
        tmp_path, [{"chosen": f"{front}{asked} So. Assistant: me.", "rejected": f"{front}{asked}"}]
    )
    row = items[0].row
    assert row["messages"] == [
        {"role": "system", "content": "Be kind."},
        user("Hi, I am Human: a being"),
        assistant("Hello.\n\nSecond part."),
        user("Why?"),
    ]
    assert row["completions"] == ["So. Assistant: me.", ""]


def test_transcripts_that_part_early_keep_all_later_turns(tmp_path: Path) -> None:
    more = "\n\nHuman: And then?\n\nAssistant: Wait."
    items, notes = read_records(
        tmp_path, [{"chosen": human(2, A) + more, "rejected": human(2, B)}, *FIXTURES["hh-rlhf"][1]]
    )
    assert items[0].row["completions"] == [f"{A}\n\nUser: And then?\n\nAssistant: Wait.", B]
    assert items[0].row["messages"] == [user(ASK)]
    assert any("several turns" in note for note in notes)


def test_a_transcript_without_an_answer_is_one_line(tmp_path: Path) -> None:
    records = [*FIXTURES["hh-rlhf"][1], {"chosen": human(1, A), "rejected": "\n\nHuman: Hi"}]
    assert "row 6: column 'rejected' does not end with a paragraph" in refused(tmp_path, records)


def test_a_prompt_that_is_a_transcript_becomes_turns(tmp_path: Path) -> None:
    prompt = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
    items, _ = read_records(tmp_path, [{"prompt": prompt, "chosen": " So.", "rejected": " No."}])
    assert items[0].row["messages"] == [user("Hi"), assistant("Hello"), user("Why?")]
    assert items[0].row["completions"] == [" So.", " No."]


# --- ranks and scores


@pytest.mark.parametrize(
    ("ranks", "ranking"),
    [
        ([0, 1, 2], [1, 2, 3]),
        ([1.5, 1.5, 3.0], [1, 1, 2]),
        ([1, 4, 4], [1, 2, 2]),
        ([2, 0.5, None], [2, 1, None]),
    ],
)
def test_ranks_of_answers_from_0_as_means_and_with_gaps(
    ranks: list[Any], ranking: list[Any], tmp_path: Path
) -> None:
    answers = [{"answer": f"text {n}", "model": "m", "rank": rank} for n, rank in enumerate(ranks)]
    items, _ = read_records(tmp_path, [{"prompt": ASK, "answers": answers}])
    assert rankings(items) == [ranking]
    items, _ = read_records(tmp_path, [{"prompt": ASK, "answers": answers}], direction="higher")
    highest = max(rank for rank in ranks if rank is not None)
    assert rankings(items)[0][ranks.index(highest)] == 1


def test_ultrafeedback_by_aspects(tmp_path: Path) -> None:
    records = FIXTURES["ultrafeedback"][1]
    items, notes = read_records(tmp_path, records, aspects={"helpfulness": 1})
    assert rankings(items)[0] == [1, 2, 3]
    items, notes = read_records(tmp_path, records, aspects={"helpfulness": 0.5, "honesty": 1})
    assert rankings(items) == [[3, 2, 1]] * 4 + [[2, 1, None]]  # one has no rating
    assert items[0].row["scores"] == [3.5, 4.0, 4.5]
    assert any("0.5 helpfulness + honesty decides" in note for note in notes)
    assert "no rating of 'truth'; there are helpfulness, honesty" in refused(
        tmp_path, records, aspects={"truth": 1}
    )


def test_ratings_by_aspect_with_weights_wherever_the_rows_stand(tmp_path: Path) -> None:
    records = FIXTURES["helpsteer2"][1]
    records = [*records[::2], *records[1::2]]
    items, _ = read_records(tmp_path, records, aspects={"helpfulness": 1, "verbosity": -1})
    assert rankings(items) == [FIRST] * 5  # 1 - 0 or 3 - 0 against 3 - 4
    items, notes = read_records(tmp_path, records[:6])
    assert len(items) == 1
    assert any("4 prompts with a single rated answer" in note for note in notes)


def test_ratings_of_two_people_are_compared_within_each(tmp_path: Path) -> None:
    records = [
        {"prompt": ASK, "response": text, "rating": rating, "annotator": who}
        for who, ratings in (("ann", (1, 5)), (7, (4, 4)))
        for text, rating in zip((A, B), ratings, strict=True)
    ]
    items, _ = read_records(tmp_path, records)
    assert [(item.row["labeler_id"], item.row["ranking"]) for item in items] == [("ann", SECOND), ("7", TIE)]


@pytest.mark.parametrize(
    ("names", "cells", "ranking"),
    [
        (("rank_1", "rank_2"), "1,2", FIRST),
        (("rank_1", "rank_2"), "2,1", SECOND),
        (("score_1", "score_2"), "1,2", SECOND),
        (("rating_1", "rating_2"), "4.5,4.5", TIE),
        (("answer_1_rank", "answer_2_rank"), "0,3.5", FIRST),
        (("Rating 1", "Rating 2"), "5,1", FIRST),
    ],
)
def test_columns_of_ranks_and_scores(
    names: tuple[str, str], cells: str, ranking: list[int], tmp_path: Path
) -> None:
    head = f"prompt,answer_1,answer_2,{','.join(names)}"
    assert read_csv(tmp_path, head, f"{ASK},{A},{B},{cells}") == [ranking]


@pytest.mark.parametrize("answer", ["response", "completion"])
def test_an_answer_a_row_with_its_rank(answer: str, tmp_path: Path) -> None:
    rows = [
        {"prompt": ASK, answer: text, "rank": rank, "annotator": who, "split": split}
        for who, split, ranks in (("ann", "train", (2, 1.0, None)), ("bob", "train", (0, 3, 3)))
        for text, rank in zip((A, B, "No."), ranks, strict=True)
    ]
    items, _ = read_records(tmp_path, rows)
    assert rankings(items) == [[2, 1, None], [1, 2, 2]]
    assert [item.table for item in items] == ["comparisons"] * 2
    assert rankings(read_records(tmp_path, rows, direction="higher")[0]) == [[1, 2, None], [2, 1, 1]]


def test_answers_of_two_splits_are_not_compared(tmp_path: Path) -> None:
    rows = [
        {"prompt": ASK, "response": text, "score": score, "split": split}
        for text, score, split in ((A, 2, "train"), (B, 1, "train"), ("No.", 0, "test"), ("Yes.", 1, "test"))
    ]
    items, _ = read_records(tmp_path, rows)
    assert [(item.row["completions"], item.row["split"]) for item in items] == [
        ([A, B], "train"),
        (["No.", "Yes."], "test"),
    ]


def test_of_verdicts_by_aspects_none_is_taken_for_the_overall(tmp_path: Path) -> None:
    head = "prompt,response_a,response_b,helpful_preference,safe_preference"
    with pytest.raises(
        DataError, match=r"'helpful_preference', 'safe_preference' each say .* ingest.aspects"
    ):
        read_csv(tmp_path, head, f"{ASK},{A},{B},A,B")
    assert read_csv(tmp_path, head, f"{ASK},{A},{B},A,B", aspects={"safe_preference": 1}) == [SECOND]
    for overall in ("preference", "Overall preference"):
        assert read_csv(tmp_path, f"{head},{overall}", f"{ASK},{A},{B},A,A,B") == [SECOND]


def test_an_order_in_letters_is_read_and_in_numbers_asked_for(tmp_path: Path) -> None:
    head = "prompt,response_a,response_b,response_c,ranking"
    rows = (f'{ASK},{A},{B},No.,"{order}"' for order in ("C, A, B", "b;c"))
    assert read_csv(tmp_path, head, *rows) == [[2, 3, 1], [None, 1, 2]]
    for order in ("3, 1, 2", "A, A, B", "A, D"):
        with pytest.raises(DataError, match="answers that name no output"):
            read_csv(tmp_path, head, f'{ASK},{A},{B},No.,"{order}"')


def test_comments_on_answers_are_none(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"prompt,comment_a,comment_b,response_a,response_b,winner\n{ASK},Ca,Cb,{A},{B},A\n")
    items, notes = read_path(path)
    assert items[0].row["completions"] == [A, B]
    assert any("'comment_a', 'comment_b' not read" in note for note in notes)
    path.write_text(f"post,comment_a,comment_b,winner\n{ASK},{A},{B},A\n")
    assert read_path(path)[0][0].row["completions"] == [A, B]


def test_numbers_of_answers_that_do_not_judge_them(tmp_path: Path) -> None:
    head = "prompt,answer_1_id,answer_2_id,tokens_1,tokens_2,answer_1,answer_2"
    row = f"{ASK},77,78,10,20,{A},{B}"
    assert read_csv(tmp_path, f"{head},winner", f"{row},2") == [SECOND]
    assert read_csv(tmp_path, f"{head},rating_1,rating_2", f"{row},5,1") == [FIRST]
    with pytest.raises(DataError, match=r"'answer_id', 'tokens' each say .* ingest.aspects"):
        read_csv(tmp_path, head, row)
    with pytest.raises(DataError, match="whether lower or higher numbers of 'tokens_1'"):
        read_csv(tmp_path, head, row, aspects={"tokens": 1})


def test_of_scores_by_aspects_none_is_taken_for_the_overall(tmp_path: Path) -> None:
    head = "prompt,answer_a,answer_b,help_score_a,help_score_b,truth_score_a,truth_score_b"
    row = f"{ASK},{A},{B},5,1,1,5"
    with pytest.raises(DataError, match=r"'help_score', 'truth_score' each say .* ingest.aspects"):
        read_csv(tmp_path, head, row)
    assert read_csv(tmp_path, head, row, aspects={"truth_score": 1}) == [SECOND]
    assert read_csv(tmp_path, f"{head},overall_score_a,overall_score_b", f"{row},3,4") == [SECOND]


@pytest.mark.parametrize("who", ["Annotator", "Worker ID", "labelerId", "RATER"])
def test_people_under_names_in_other_letters(who: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"Prompt,Answer A,Answer B,Winner,{who}\n{ASK},{A},{B},A,ann\n")
    items, notes = read_path(path)
    assert (items[0].row["labeler_id"], notes) == ("ann", [])


def test_a_table_with_turns_for_a_prompt(tmp_path: Path) -> None:
    row = {"messages": [user(ASK)], "response_a": A, "response_b": B, "preference": "B"}
    items, _ = read_records(tmp_path, [row])
    assert (items[0].row["messages"], rankings(items)) == ([user(ASK)], [SECOND])


def test_numbers_under_another_name_are_asked_for(tmp_path: Path) -> None:
    lines = ("prompt,answer_1,answer_2,value_1,value_2", f"{ASK},{A},{B},1,2")
    with pytest.raises(DataError, match="lower or higher numbers of 'value_1' are better is not certain"):
        read_csv(tmp_path, *lines)
    assert read_csv(tmp_path, *lines, direction="lower") == [FIRST]
    assert read_csv(tmp_path, *lines, direction="higher") == [SECOND]


# --- verdicts


@pytest.mark.parametrize(
    ("head", "word", "ranking"),
    [
        ("prompt,response_a,response_b,preference", "A", FIRST),
        ("prompt,response_a,response_b,preference", "b", SECOND),
        ("prompt,response_a,response_b,preference", "response_b", SECOND),
        ("prompt,response_a,response_b,winner", "Response A", FIRST),
        ("prompt,response_a,response_b,winner", "B is better", SECOND),
        ("prompt,response_a,response_b,winner", "A is better than B", FIRST),
        ("prompt,response_a,response_b,winner", "B is slightly better than A", SECOND),
        ("prompt,response_a,response_b,winner", "A is a bit better", FIRST),
        ("prompt,response_a,response_b,winner", "B is a little better", SECOND),
        ("prompt,response_a,response_b,winner", "Tie", TIE),
        ("prompt,response_a,response_b,winner", "Both bad", TIE),
        ("prompt,response_a,response_b,winner", "A>B", FIRST),
        ("prompt,response_a,response_b,winner", "A << B", SECOND),
        ("prompt,response_a,response_b,winner", "A = B", TIE),
        ("prompt,answer_1,answer_2,choice", "2", SECOND),
        ("prompt,answer_0,answer_1,choice", "1", SECOND),
        ("prompt,answer_1,answer_2,better", "answer 1", FIRST),
        ("prompt,left,right,verdict", "right", SECOND),
        ("question,left_answer,right_answer,preferred", "left", FIRST),
        ("Prompt,Answer 1,Answer 2,Which is better", "first", FIRST),
        ("instruction,Output A,Output B,human_preference", "second", SECOND),
        ("prompt,model_a_response,model_b_response,winner", "model_b", SECOND),
    ],
)
def test_verdicts(head: str, word: str, ranking: list[int], tmp_path: Path) -> None:
    assert read_csv(tmp_path, head, f"{ASK},{A},{B},{word}") == [ranking]


@pytest.mark.parametrize(
    "said",
    [
        "B is worse than A",
        "B is not as good as A",
        "B loses to A",
        "B is no better than A",
        "A >= B",
        "A > B < A",
        "not A",
    ],
)
def test_what_only_begins_like_a_verdict_is_asked_for(said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="answers that name no output"):
        read_csv(tmp_path, "prompt,response_a,response_b,winner", f"{ASK},{A},{B},{said}")


def test_of_an_order_that_goes_down_and_up_nothing_is_made(tmp_path: Path) -> None:
    head = "prompt,response_a,response_b,response_c,order"
    assert read_csv(tmp_path, head, f"{ASK},{A},{B},No.,A < B = C") == [[2, 1, 1]]
    with pytest.raises(DataError, match="answers that name no output"):
        read_csv(tmp_path, head, f"{ASK},{A},{B},No.,A > B < C")


def test_a_verdict_may_name_the_model(tmp_path: Path) -> None:
    head = "prompt,model_a,model_b,response_a,response_b,winner"
    rows = (f"{ASK},gpt,llama,{A},{B},llama", f"{ASK},llama,gpt,{A},{B},llama")
    assert read_csv(tmp_path, head, *rows) == [SECOND, FIRST]
    with pytest.raises(DataError, match="'gpt'"):
        read_csv(tmp_path, head, f"{ASK},gpt,gpt,{A},{B},gpt")


def test_zero_and_one_for_a_and_b_are_asked_for(tmp_path: Path) -> None:
    lines = ("prompt,response_a,response_b,label", f"{ASK},{A},{B},1", f"{ASK}?,{A},{B},0", f"Q,{A},{B},")
    with pytest.raises(DataError, match=r"'1' \(1\), '0' \(1\); map them (in|by) ingest.words"):
        read_csv(tmp_path, *lines)
    assert read_csv(tmp_path, *lines, words={"1": "first", "0": "second"}) == [FIRST, SECOND]
    assert read_csv(tmp_path, *lines, words={"1": "response_b", "0": "tie"}) == [SECOND, TIE]


def test_rows_without_a_verdict_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"prompt,answer_1,answer_2,choice\n{ASK},{A},{B},1\n{ASK}?,{A},{B},\n")
    items, notes = read_path(path)
    assert rankings(items) == [FIRST]
    assert any("1 rows without a verdict" in note for note in notes)


def test_several_people_a_row(tmp_path: Path) -> None:
    asked = {"prompt": ASK, "response_a": A, "response_b": B}
    shapes: list[dict[str, Any]] = [
        {"votes": ["A", "B", "tie"], "annotators": ["x", "y", "z"]},
        {"votes": {"x": "A", "y": "B", "z": "tie"}},
        {"annotations": [{"annotator": w, "choice": c} for w, c in (("x", "A"), ("y", "B"), ("z", "tie"))]},
    ]
    for shape in shapes:
        items, _ = read_records(tmp_path, [asked | shape])
        told = [(item.row["labeler_id"], item.row["ranking"]) for item in items]
        assert told == [("x", FIRST), ("y", SECOND), ("z", TIE)], shape
    assert "lists 1 people, votes 2 verdicts" in refused(
        tmp_path, [asked | {"votes": ["A", "B"], "annotators": ["x"]}]
    )


def test_four_answers_and_an_order(tmp_path: Path) -> None:
    asked = {"prompt": ASK} | {f"answer_{mark}": f"text {mark}" for mark in "abcd"}
    for said, ranking in (
        ("B > A = D > C", [2, 1, 3, 2]),
        (["B", "A", "D", "C"], [2, 1, 4, 3]),
        ([2, 1, 4, 2], [2, 1, 3, 2]),
    ):
        items, _ = read_records(tmp_path, [asked | {"ranking": said}])
        assert rankings(items) == [ranking], said


# --- battles, trees, labels


def test_a_battle_of_several_turns(tmp_path: Path) -> None:
    sides = {
        "conversation_a": [user(ASK), assistant(A), user("Why?"), assistant("So.")],
        "conversation_b": [user(ASK), assistant(B), user("Why?"), assistant("No.")],
    }
    items, _ = read_records(tmp_path, [sides | {"winner": "model_b", "model_a": "x", "model_b": "y"}])
    row = items[0].row
    assert (row["messages"], row["ranking"]) == ([user(ASK)], SECOND)
    assert row["completions"][1] == f"{B}\n\nUser: Why?\n\nAssistant: No."
    assert "question 'winner': 'x2' (1)" in refused(tmp_path, [sides | {"winner": "x2"}])


def test_trees_with_deleted_and_unranked_replies_in_any_order(tmp_path: Path) -> None:
    records = [dict(record) for record in FIXTURES["oasst"][1]][:4]
    records[1]["deleted"] = True
    items_or = refused(tmp_path, records)
    assert "1 deleted messages" in items_or
    assert "1 answers that are ranked alone" in items_or
    records = list(reversed([dict(record) for record in FIXTURES["oasst"][1]]))
    items, notes = read_records(tmp_path, records)
    assert rankings(items) == [FIRST] * 5  # the replies stand the other way round
    assert any("5 answers without a rank" in note for note in notes)
    assert "the parent 'm4' of a message is not in the file" in refused(tmp_path, records[:2])


@pytest.mark.parametrize(
    ("label", "good"), [(True, True), ("false", False), (1, True), ("0", False), ("thumbs up", True)]
)
def test_thumbs(label: Any, good: bool, tmp_path: Path) -> None:
    items, _ = read_records(tmp_path, [{"prompt": ASK, "completion": A, "label": label}])
    assert items[0].row["label"] is good


def test_a_label_that_is_no_thumb_is_refused(tmp_path: Path) -> None:
    assert "no thumb: question 'label': 'spam' (1)" in refused(
        tmp_path, [{"prompt": ASK, "completion": A, "label": "spam"}]
    )


def test_shp_labels_as_texts(tmp_path: Path) -> None:
    record = FIXTURES["shp"][1][0]
    for label, ranking in (("1", FIRST), ("0", SECOND), ("B", SECOND), (1.0, FIRST)):
        items, _ = read_records(tmp_path, [record | {"labels": label}])
        assert rankings(items) == [ranking]
    assert "labels is 2" in refused(tmp_path, [record | {"labels": 2}])


def test_the_safer_answer(tmp_path: Path) -> None:
    items, notes = read_records(tmp_path, FIXTURES["pku"][1], aspects={"safer": 1})
    assert rankings(items) == [FIRST] * 5
    assert any("safer_response_id decides" in note for note in notes)
    assert "{better: 1} or {safer: 1}" in refused(
        tmp_path, FIXTURES["pku"][1], aspects={"safer": 1, "better": 1}
    )


# --- conversations


def test_turns_of_other_tools(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "clock"}]}
    told = {"role": "tool", "content": "12:00", "tool_call_id": "c1"}
    parts = {"role": "user", "content": [{"type": "text", "text": "Now?"}], "name": "ann"}
    turns = [{"role": "developer", "content": "Be brief."}, parts, call, told, assistant("Noon.")]
    items, notes = read_records(tmp_path, [{"messages": turns, "tools": [{"name": "clock"}]}])
    row = items[0].row
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant", "tool"]
    assert row["messages"][1]["content"] == "Now?"
    assert row["messages"][2]["content"] == '[{"name": "clock"}]'
    assert row["completion"] == "Noon."
    said = "\n".join(notes)
    assert "keys 'name' of turns" in said
    assert "keys 'tool_call_id' of turns" in said
    assert "'tools' not read" in said


def test_a_picture_or_an_unknown_speaker_is_one_line(tmp_path: Path) -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, assistant("A cat.")]
    assert "message 1 holds something other than text" in refused(tmp_path, [{"messages": picture}])
    narrator = [{"role": "narrator", "content": "Once."}, assistant("Yes.")]
    assert "message 1 has the role 'narrator'" in refused(tmp_path, [{"messages": narrator}])


def test_history_and_system_of_llama_factory(tmp_path: Path) -> None:
    row = {"instruction": "And you?", "input": "", "output": "Well.", "system": "Be brief."}
    items, _ = read_records(tmp_path, [row | {"history": [["Hi", "Hello."]]}])
    assert items[0].row["messages"] == [
        {"role": "system", "content": "Be brief."},
        user("Hi"),
        assistant("Hello."),
        user("And you?"),
    ]


def test_a_column_of_people_is_kept_under_any_of_its_names(tmp_path: Path) -> None:
    for name in ("labeler_id", "annotator", "worker_id", "rater", "judge"):
        items, _ = read_records(tmp_path, [{"prompt": ASK, "chosen": A, "rejected": B, name: 12}])
        assert items[0].row["labeler_id"] == "12"


def test_rows_that_name_nobody_are_numbered_only_where_they_judge_the_same(tmp_path: Path) -> None:
    pair = {"prompt": ASK, "completions": [A, B]}
    turned = {"prompt": ASK, "completions": [B, A], "ranking": SECOND}
    records = [pair | {"ranking": FIRST}, turned, pair | {"prompt": "Q", "ranking": FIRST}]
    items, notes = read_records(tmp_path, records)
    assert [item.row["labeler_id"] for item in items] == ["unknown", "unknown-2", "unknown"]
    assert any("1 of them judge answers that an earlier row judges too" in note for note in notes)


# --- names and shapes near the known ones


def test_conversations_beside_their_whole_prompt_or_their_ends(tmp_path: Path) -> None:
    ends = {"chosen": assistant(A), "rejected": assistant(B)}
    whole = {"chosen": [user(ASK), assistant(A)], "rejected": [user(ASK), assistant(B)]}
    shapes: list[dict[str, Any]] = [
        {"messages": [user(ASK)], **ends},
        {"messages": [user(ASK), assistant(A)], **whole},
        {"prompt": [user(ASK)], **whole},
        {"prompt": ASK, **whole},
        {"prompt": [user(ASK)], "chosen": A, "rejected": B},
    ]
    for shape in shapes:
        items, _ = read_records(tmp_path, [shape])
        row = items[0].row
        told = (row["messages"], row["completions"], row["ranking"])
        assert told == ([user(ASK)], [A, B], FIRST), shape


def test_a_scale_is_not_taken_for_the_number_of_an_answer(tmp_path: Path) -> None:
    head = "prompt,answer_1,answer_2,preference"
    for scale in (("-2", "1"), ("3", "1"), ("0", "1"), ("1.5", "1")):
        with pytest.raises(DataError, match="answers that name no output"):
            read_csv(tmp_path, head, *(f"{ASK}{word},{A},{B},{word}" for word in scale))


def test_preferences_of_helpsteer2(tmp_path: Path) -> None:
    records = [
        {"prompt": ASK, "response_1": A, "response_2": B, "preference_strength": strength}
        for strength in (-2, 0, 3)
    ]
    items, _ = read_records(tmp_path, records)
    assert rankings(items) == [FIRST, TIE, SECOND]
    assert [item.row["margin"] for item in items] == [2, 0, 3]


def test_a_preference_of_helpsteer3_without_those_of_its_annotators(tmp_path: Path) -> None:
    row = {"context": [user(ASK)], "response1": A, "response2": B, "overall_preference": -1}
    said = [{"score": -1, "reasoning": "Kinder."}]
    records = [row | {"individual_preference": individual} for individual in ([], said)]
    items, _ = read_records(tmp_path, records)
    assert [(item.row["ranking"], "extra" in item.row) for item in items] == [(FIRST, False), (FIRST, True)]


def test_a_battle_is_read_up_to_the_turn_that_was_judged(tmp_path: Path) -> None:
    record = {
        "conversation_a": [user(ASK), assistant(A), user("Why?"), assistant("So.")],
        "conversation_b": [user(ASK), assistant(B), user("Why?"), assistant("No.")],
        "winner": "model_a",
        "judge": "ann",
    }
    items, _ = read_records(tmp_path, [record | {"turn": 1}, record | {"turn": 2, "winner": "model_b"}])
    assert [item.row["completions"][0] for item in items] == [A, f"{A}\n\nUser: Why?\n\nAssistant: So."]
    assert rankings(items) == [FIRST, SECOND]


@pytest.mark.parametrize("said", [lambda text: text, lambda text: [text], lambda text: f'["{text}"]'])
def test_flags_for_the_winner(said: Any, tmp_path: Path) -> None:
    texts = {"prompt": said(ASK), "response_a": said(A), "response_b": said(B)}
    names = ("winner_model_a", "winner_model_b", "winner_tie")
    records = [
        texts | {"model_a": "x", "model_b": "y"} | dict(zip(names, flags, strict=True))
        for flags in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    items, _ = read_records(tmp_path, records)
    assert rankings(items) == [FIRST, SECOND, TIE]
    assert items[0].row["completions"] == [A, B]
    assert items[0].row["messages"] == [user(ASK)]


def test_logs_of_thumbs(tmp_path: Path) -> None:
    for column, values in (("liked", (True, False)), ("feedback", ("good", "bad")), ("label", (1, 0))):
        records = [{"prompt": ASK, "response": A, column: value} for value in values]
        items, _ = read_records(tmp_path, [*records, {"prompt": ASK, "response": A, column: None}])
        assert [(item.table, item.row["label"]) for item in items] == [("votes", True), ("votes", False)]


def test_an_instruction_with_its_context(tmp_path: Path) -> None:
    row = {"instruction": "Sum up.", "context": "It rained.", "response": "Rain.", "category": "sum"}
    items, _ = read_records(tmp_path, [row])
    assert (items[0].row["prompt"], items[0].row["completion"]) == ("Sum up.\nIt rained.", "Rain.")


def test_names_in_other_letters(tmp_path: Path) -> None:
    items, notes = read_records(tmp_path, [{"Prompt": ASK, "Chosen": A, "Rejected": B, "Colour": "red"}])
    assert (items[0].row["prompt"], items[0].row["completions"]) == (ASK, [A, B])
    assert any("'Colour' not read" in note for note in notes)
    assert not any("'Prompt'" in note for note in notes)
    items, _ = read_records(tmp_path, [{"Question": ASK, "Answer": A}])
    assert (items[0].table, items[0].row["completion"]) == ("demonstrations", A)
    items, _ = read_records(tmp_path, [{"Instruction": ASK, "Chosen Response": A, "Rejected-Response": B}])
    assert items[0].row["completions"] == [A, B]


def test_scores_and_models_of_a_pair_under_other_names(tmp_path: Path) -> None:
    pair = {"prompt": ASK, "chosen": A, "rejected": B}
    named = {"chosen-rating": 5, "rejected-rating": 2, "chosen-model": "x", "rejected-model": "y"}
    items, _ = read_records(tmp_path, [pair | named])
    assert (items[0].row["scores"], items[0].row["policies"]) == ([5, 2], ["x", "y"])


def test_texts_with_what_corpora_say_of_them(tmp_path: Path) -> None:
    items, notes = read_records(tmp_path, [{"text": A, "url": "x", "timestamp": "y"}])
    assert (items[0].table, items[0].row["text"]) == ("corpus", A)
    assert any("'url', 'timestamp' not read" in note for note in notes)
    assert "no known layout" in refused(tmp_path, [{"text": A, "sentiment": "good"}])


# --- directions that the user says


def test_rankings_of_the_contract_in_which_the_highest_is_best(tmp_path: Path) -> None:
    records = [{"prompt": ASK, "completions": [A, B, "No."], "ranking": [0.2, 3, None]}]
    assert rankings(read_records(tmp_path, records)[0]) == [[1, 2, None]]
    items, notes = read_records(tmp_path, records, direction="higher")
    assert rankings(items) == [[2, 1, None]]
    assert any("the highest number is best" in note for note in notes)


def test_ratings_of_which_the_lowest_is_best_or_none_is_overall(tmp_path: Path) -> None:
    rated = [{"prompt": ASK, "response": text, "score": n} for n, text in enumerate((A, B))]
    items, _ = read_records(tmp_path, rated, direction="lower")
    assert rankings(items) == [FIRST]
    assert items[0].row.get("scores") is None
    by_aspect = [{"prompt": ASK, "response": text, "coherence": 1, "verbosity": 2} for text in (A, B)]
    assert "only coherence, verbosity; say which count in ingest.aspects" in refused(tmp_path, by_aspect)


def test_a_null_in_a_pair_is_one_line_with_its_row(tmp_path: Path) -> None:
    pair = {"prompt": ASK, "chosen": A, "rejected": B}
    for broken in ({"chosen": None}, {"rejected": 3}, {"chosen": None, "rejected": None}):
        assert "row 3: " in refused(tmp_path, [pair, pair, pair | broken, pair])


def test_conversations_as_python_shows_them_are_no_answers(tmp_path: Path) -> None:
    path = tmp_path / "pandas.csv"
    rows = [
        {
            "prompt": ASK,
            "chosen": [
                assistant("Don't."),
            ],
            "rejected": [assistant(B)],
        }
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    items, _ = read_path(path)
    assert items[0].row["completions"] == ["Don't.", B]
    pd.DataFrame([{"messages": [user(ASK), assistant(A)]}]).to_csv(path, index=False)
    items, _ = read_path(path)
    assert (items[0].table, items[0].row["completion"]) == ("demonstrations", A)
    turns = np.array([user(ASK), assistant(A)], dtype=object)
    pd.DataFrame({"messages": [turns]}).to_csv(path, index=False)
    with pytest.raises(
        DataError, match=r"row 1: column 'messages': .* as Python shows it; save the table as"
    ):
        read_path(path)


def test_votes_as_conversations(tmp_path: Path) -> None:
    row = {"prompt": [user(ASK)], "completion": [assistant(A)], "label": True}
    items, _ = read_records(tmp_path, [row])
    told = items[0].row
    assert (told["messages"], told["completion"], told["label"]) == ([user(ASK)], A, True)
