"""What the rows of every layout become, worked out by hand: direction, ties, people, conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from layout_fixtures import ASK, BAD, FIVE, FIXTURES, GOOD, TASKS, assistant, user
from layout_reading import read_path

from rlhf.data.layouts.kinds import kinds
from rlhf.data.layouts.layout import Record
from rlhf.data.layouts.recognise import LAYOUTS, recognise

Rows = list[tuple[str, dict[str, Any]]]
TURNED = [[GOOD[i], BAD[i]] if i % 2 == 0 else [BAD[i], GOOD[i]] for i in FIVE]
UNKNOWN = {"labeler_id": "unknown"}


def read_fixture(name: str, folder: Path, **options: Any) -> tuple[Rows, list[str]]:
    """The rows of a fixture as (table, columns that say something), and the notes."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in FIXTURES[name][1]))
    items, notes = read_path(path, **options)
    rows = [
        (item.table, {k: v for k, v in item.row.items() if v is not None and k != "source"}) for item in items
    ]
    return rows, notes


def plain(i: int) -> dict[str, Any]:
    return {"prompt": ASK[i]}


def talk(i: int) -> dict[str, Any]:
    return {"prompt": ASK[i], "messages": [user(ASK[i])]}


def better(asked: Any = plain, **beside: Any) -> Rows:
    """The good answer first, and better."""
    pair = {"ranking": [1, 2], **UNKNOWN, **beside}
    return [("comparisons", {**asked(i), "completions": [GOOD[i], BAD[i]], **pair}) for i in FIVE]


def turned(rankings: list[list[int]], asked: Any = plain, **lists: list[Any]) -> Rows:
    """The good answer first in every other row, with these rankings and other columns, a value a row."""
    rows: Rows = []
    for i in FIVE:
        beside = {name: values[i] for name, values in lists.items() if values[i] is not None}
        row = {**asked(i), "completions": TURNED[i], "ranking": rankings[i], **UNKNOWN, **beside}
        rows.append(("comparisons", row))
    return rows


def demonstrated(asked: Any = plain) -> Rows:
    return [("demonstrations", {**asked(i), "completion": GOOD[i]}) for i in FIVE]


def voted(asked: Any = plain) -> Rows:
    rows = [{**asked(i), "completion": TURNED[i][0], "label": i % 2 == 0, **UNKNOWN} for i in FIVE]
    return [("votes", row) for row in rows]


def briefly(i: int) -> dict[str, Any]:
    turns = [{"role": "system", "content": "Be brief."}, user(ASK[i])]
    return {"prompt": f"System: Be brief.\n\nUser: {ASK[i]}", "messages": turns}


def post(i: int) -> dict[str, Any]:
    return {"prompt": f"SUBREDDIT: r/home\n\nTITLE: A question\n\nPOST: {ASK[i]}\n\nTL;DR:"}


def ranked(completions: Any, asked: Any = plain, **beside: Any) -> Rows:
    """A comparison a row."""
    return [("comparisons", {**asked(i), "completions": completions(i), **UNKNOWN, **beside}) for i in FIVE]


FIRST, SECOND, TIE = [1, 2], [2, 1], [1, 1]
LEFT_RIGHT = [FIRST, SECOND, FIRST, SECOND, FIRST]
NECTAR_RANKS = [2, 1, 3, 7, 5, 6, 4]

GOLDEN: dict[str, Rows] = {
    "trl-explicit": better(),
    "trl-margin": [(table, row | {"margin": i / 2}) for i, (table, row) in enumerate(better())],
    "trl-explicit-messages": better(talk),
    "trl-implicit-messages": better(talk),
    # Both begin with the question; the words of the answers are what comes after it.
    "trl-implicit-text": [
        (
            "comparisons",
            {**plain(i), "completions": [f" {GOOD[i]}", f" {BAD[i]}"], "ranking": FIRST} | UNKNOWN,
        )
        for i in FIVE
    ],
    "ultrafeedback-binarized": [
        ("comparisons", row | ({"scores": [8.5, 8.5], "ranking": TIE} if i == 2 else {"scores": [8.5, 6.0]}))
        for i, (_, row) in enumerate(better(talk))
    ],
    "kto": voted(),
    "hh-rlhf": better(talk),
    "nectar": ranked(
        lambda i: [f"{GOOD[i]} {n}" for n in range(7)],
        talk,
        ranking=NECTAR_RANKS,
        policies=[f"m{n}" for n in range(7)],
    ),
    "ultrafeedback": ranked(
        lambda i: [f"{GOOD[i]} {n}" for n in range(3)],
        ranking=[2, 1, 2],
        scores=[4.0, 8.5, 4.0],
        policies=["m1", "m2", "m3"],
    ),
    "helpsteer2": [
        (
            "comparisons",
            {**plain(i), "completions": [BAD[i], GOOD[i]], **UNKNOWN}
            | ({"ranking": TIE, "scores": [3, 3]} if i == 2 else {"ranking": SECOND, "scores": [1, 3]}),
        )
        for i in FIVE
    ],
    # Below 0 the first is better: -3, 2, 0, -1, 1.
    "helpsteer3": turned(
        [FIRST, SECOND, TIE, FIRST, SECOND],
        talk,
        margin=[3.0, 2.0, 0.0, 1.0, 1.0],
        extra=[
            json.dumps({"individual_preference": [{"reasoning": "clear", "score": score}]})
            for score in (-3, 2, 0, -1, 1)
        ],
    ),
    "shp": turned(
        LEFT_RIGHT,
        scores=[[10, 4], [4, 10], [10, 4], [4, 10], [10, 4]],
        split=["train"] * 4 + ["test"],
    ),
    "webgpt": turned(
        [FIRST, SECOND, TIE, SECOND, FIRST],
        scores=[[0.5, -0.5], [-0.5, 0.5], [0, 0], [-0.5, 0.5], [0.5, -0.5]],
    ),
    "summarize-comparisons": [
        ("comparisons", row | {"completions": [f" {text}" for text in row["completions"]]})
        for _, row in turned(
            LEFT_RIGHT,
            post,
            strength=[8, 1, 9, None, 5],
            policies=[["ref", "sup4"]] * 5,
            labeler_id=[f"w{i}" for i in FIVE],
            split=["train", "train", "validation", "validation", "train"],
        )
    ],
    "summarize-axis": [
        (
            "comparisons",
            {"prompt": f"TITLE: T\n\n{ASK[i]}\n\nTL;DR:", "completions": [BAD[i], GOOD[i]]}
            | {"ranking": SECOND, "scores": [3, 5], "policies": ["sup4", "ref"]}
            | {"labeler_id": "w1", "split": "test"},
        )
        for i in FIVE
    ],
    "pku": turned(LEFT_RIGHT, extra=['{"is_safe": [true, false]}'] * 5),
    "arena": [
        ("comparisons", row | {"ranking": ranking, "labeler_id": f"user_{i}"} | bad)
        for i, ((_, row), (ranking, bad)) in enumerate(
            zip(
                better(talk, policies=["alpha", "beta"]),
                [
                    (FIRST, {}),
                    (SECOND, {}),
                    (TIE, {"both_bad": False}),
                    (TIE, {"both_bad": True}),
                    (FIRST, {}),
                ],
                strict=True,
            )
        )
    ],
    "oasst": ranked(lambda i: [BAD[i], GOOD[i]], talk, ranking=SECOND),
    "oasst-nested": [
        row
        for i in FIVE
        for row in (
            ("comparisons", {**talk(i), "completions": [BAD[i], GOOD[i]], "ranking": SECOND} | UNKNOWN),
            (
                "comparisons",
                {
                    "prompt": f"User: {ASK[i]}\n\nAssistant: {GOOD[i]}\n\nUser: How slowly?",
                    "messages": [user(ASK[i]), assistant(GOOD[i]), user("How slowly?")],
                    "completions": ["Slowly.", "With care."],
                    "ranking": SECOND,
                }
                | UNKNOWN,
            ),
        )
    ],
    "llama-factory-alpaca": better(),
    "llama-factory-sharegpt": better(talk),
    "llama-factory-kto": voted(),
    "axolotl-response": better(),
    "axolotl-question": better(briefly),
    "axolotl-input": better(),
    "nemo-rl": [
        ("comparisons", row | {"ranking": [2, 1, 2] if i == 2 else [2, 1, 3]})
        for i, (_, row) in enumerate(ranked(lambda i: [BAD[i], GOOD[i], "No."], talk))
    ],
    "swift-response": better(talk, margin=0.5),
    "swift-messages": better(talk),
    "swift-kto": voted(talk),
    "openai-messages": demonstrated(briefly),
    "sharegpt": demonstrated(talk),
    "alpaca": [
        ("demonstrations", row | ({"prompt": f"{ASK[0]}\nAt home."} if i == 0 else {}))
        for i, (_, row) in enumerate(demonstrated())
    ],
    "prompt-response": demonstrated(),
    "question-answer": demonstrated(),
    "plain-text": [("corpus", {"text": GOOD[i]}) for i in FIVE],
    "prompts": [("prompts", plain(i)) for i in FIVE],
    "parallel-scores": ranked(lambda i: [BAD[i], GOOD[i], "No."], ranking=[2, 1, 2], scores=[1, 4.5, 1]),
    "parallel-people": [
        ("comparisons", {**plain(i), "completions": [BAD[i], GOOD[i]], "ranking": said, "labeler_id": who})
        for i in FIVE
        for who, said in (("ann", SECOND), ("7", TIE))
    ],
    "hand-verdict": turned([FIRST, SECOND, TIE, TIE, FIRST], both_bad=[None, None, False, True, None]),
    "hand-ranks": ranked(lambda i: [BAD[i], GOOD[i], "No."], ranking=[2, 1, 2]),
    "hand-people": [
        ("comparisons", {**plain(i), "completions": [BAD[i], GOOD[i]], "ranking": said, "labeler_id": who})
        for i in FIVE
        for who, said in (("annotator_1", SECOND), ("annotator_2", FIRST))
    ],
    "scitldr": [
        row
        for i in FIVE
        for row in (
            ("corpus", {"text": f"{ASK[i]} {GOOD[i]}\n\nT"}),
            *(
                (
                    "demonstrations",
                    {"prompt": f"{ASK[i]} {GOOD[i]}\n\nTL;DR:", "completion": text, "writer_id": who}
                    | {"extra": f'{{"paper_id": "x{i}", "title": "T"}}'},
                )
                for text, who in ((f"On how to {TASKS[i]}.", "author"), ("A note.", "reviewer-1"))
            ),
        )
    ],
    "cnndm": [
        row
        for i in FIVE
        for asked in ({"prompt": f"CNN/DailyMail article {i:06d}"},)
        for judge in ({"judge_id": "cnndm-annotators", "judge_kind": "human", "reference": GOOD[i]},)
        for row in (
            (
                "edits",
                {**asked, "output": BAD[i], "text": f"{BAD[i]} Slowly.", "policy": "ml"}
                | {"labeler_id": "cnndm-annotators"},
            ),
            ("judgments", {**asked, **judge, "output": BAD[i], "policy": "ml", "preferred": "reference"}),
            ("judgments", {**asked, **judge, "output": "Look.", "policy": "pointer", "preferred": "tie"}),
            (
                "judgments",
                {**asked, **judge, "output": "Look twice.", "policy": "seq2seq", "preferred": "output"},
            ),
            (
                "comparisons",
                {
                    **asked,
                    "completions": [GOOD[i], BAD[i], "Look.", "Look twice."],
                    "ranking": [2, 3, 2, 1],
                    "scores": [0.4, -0.6, 0.4, 1.0],
                    "policies": ["reference", "ml", "pointer", "seq2seq"],
                    "labeler_id": "cnndm-annotators",
                    "labeler_group": "human",
                },
            ),
        )
    ],
    "contract-comparisons": [
        (
            "comparisons",
            {**plain(i), "completions": [BAD[i], GOOD[i], "No."], "ranking": ranking, "labeler_id": str(i)},
        )
        for i, ranking in enumerate(([2, 1, 3], [1, 1, 2], [3, 1, 2], [2, 1, 2], [2, 1, None]))
    ],
    "contract-demonstrations": demonstrated(),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_rows(name: str, tmp_path: Path) -> None:
    rows, _ = read_fixture(name, tmp_path)
    assert rows == GOLDEN[name]


def test_every_fixture_has_golden_rows_or_a_test_of_its_own() -> None:
    assert FIXTURES.keys() - GOLDEN.keys() == {"lqual", "qa-feedback"}


@pytest.mark.parametrize("name", FIXTURES)
def test_exactly_one_layout_fits(name: str) -> None:
    columns = kinds([Record("row", record) for record in FIXTURES[name][1]])
    fitting = [layout for layout in LAYOUTS if layout.fits(columns)]
    exact = [layout.name for layout in fitting if not layout.general]
    assert (exact or [layout.name for layout in fitting]) == [FIXTURES[name][0]]
    assert recognise(columns).name == FIXTURES[name][0]


# A text or a prompt with other columns may be anything, so these two layouts take none.
@pytest.mark.parametrize(
    "name", [name for name in FIXTURES if FIXTURES[name][0] not in ("corpus", "prompts")]
)
def test_one_unknown_column_stops_no_file(name: str, tmp_path: Path) -> None:
    layout, records = FIXTURES[name]
    columns = kinds([Record("row", record | {"colour": "red"}) for record in records])
    assert recognise(columns).name == layout


ABOUT = {
    **{
        "id": 7,
        "idx": 1,
        "lang": "en",
        "category": "x",
        "topic": "t",
        "url": "u",
        "title": "t",
        "split": "train",
    },
    **{"created_at": "2024-01-01", "metadata": {"a": 1}, "tags": ["a"], "task": "qa", "difficulty": 2},
}


@pytest.mark.parametrize("name", FIXTURES)
def test_what_people_say_of_rows_changes_no_layout(name: str) -> None:
    layout, records = FIXTURES[name]
    for column, value in ABOUT.items():
        if column not in records[0]:
            columns = kinds([Record("row", record | {column: value}) for record in records])
            assert recognise(columns).name == layout, column


def test_qa_feedback_keeps_ties_that_no_ranking_says(tmp_path: Path) -> None:
    rows, notes = read_fixture("qa-feedback", tmp_path)
    comparisons = [row for table, row in rows if table == "comparisons"]
    # The first question: 1 beats 2 and 4 and ties with 3, 2 beats 3 and 4, 3 and 4 tie. It goes in no circle,
    # but 1 and 3 would not tie in a ranking, so its six preferences stay six pairs.
    pairs = [(row["policies"][0][-1] + row["policies"][1][-1], row["ranking"]) for row in comparisons[:6]]
    assert pairs == [("12", FIRST), ("13", TIE), ("14", FIRST), ("23", FIRST), ("24", FIRST), ("34", TIE)]
    assert [row["ranking"] for row in comparisons[6:]] == [[1, 2, 2, 3]] * 4
    assert [row["completion"] for table, row in rows if table == "demonstrations"] == list(GOOD[:5])
    edits = [row for table, row in rows if table == "edits"]
    assert {(row["output"], row["text"]) for row in edits} == {("answer 1", "Look, then do it.")}
    assert len(edits) == 5
    assert any("read as six pairs" in note for note in notes)
