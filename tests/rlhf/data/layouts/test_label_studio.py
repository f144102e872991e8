"""Label Studio: pairs, rankers, choices, ratings and texts become the comparisons that people meant."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from layout_reading import case, rankings, read_path, read_records

from rlhf.data.errors import DataError

DATA = {"prompt": "Say hi", "answer1": "hi", "answer2": "go away"}
ITEMS = [{"id": key, "title": f"title {key}", "body": f"text {key}"} for key in ("x", "y", "z")]


def result(kind: str, to: str = "prompt", name: str = "q", **value: Any) -> dict[str, Any]:
    return {"type": kind, "from_name": name, "to_name": to, "value": value}


def task(*results: dict[str, Any], data: dict[str, Any] | None = None, **annotation: Any) -> dict[str, Any]:
    by = {"completed_by": 7, "lead_time": 4.5, "was_cancelled": False, "result": list(results)}
    return {"id": 1, "data": data or DATA, "annotations": [by | annotation], "predictions": []}


@pytest.mark.parametrize(
    ("data", "to", "outputs"),
    [
        (DATA, "answer1,answer2", ["hi", "go away"]),
        (DATA, "answer2,answer1", ["go away", "hi"]),
        ({"id": "q-0", **DATA}, "answer1,answer2", ["hi", "go away"]),
        ({"topic": "home", "note": "none", **DATA}, "answer1,answer2", ["hi", "go away"]),
        ({"prompt": "p", "answer2": "go away", "answer1": "hi"}, "answer1,answer2", ["hi", "go away"]),
        # tags that are called otherwise than the fields, but count alike
        (DATA, "txt-2,txt-1", ["go away", "hi"]),
        ({"prompt": "p", "left_text": "a", "right_text": "b"}, "left_text,right_text", ["a", "b"]),
    ],
)
def test_left_is_the_first_of_to_name(
    data: dict[str, Any], to: str, outputs: list[str], tmp_path: Path
) -> None:
    pair = result("pairwise", to, selected="left")
    items, _ = read_records(tmp_path, [task(pair, data=data)])
    row = items[0].row
    assert (row["completions"], row["ranking"], row["shown_order"]) == (outputs, [1, 2], [0, 1])
    assert (row["labeler_id"], row["seconds"]) == ("label-studio-7", 4.5)
    items, _ = read_records(tmp_path, [task(pair | {"value": {"selected": "right"}}, data=data)])
    assert rankings(items) == [[2, 1]]


@pytest.mark.parametrize(
    ("data", "to"),
    [
        (DATA, "txt-3,txt-4"),
        ({"prompt": "p", "draft": "x", "final": "y"}, "a,b"),
        ({"prompt": "p", "u": "1", "v": "2", "w": "3"}, "a,b"),
    ],
)
def test_a_pair_of_which_nothing_says_the_left_is_asked_about(
    data: dict[str, Any], to: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"row 1: nothing says which of the fields .* ingest.outputs"):
        read_records(tmp_path, [task(result("pairwise", to, selected="left"), data=data)])
    names = [name for name in data if name != "prompt"][1::-1]
    items, _ = read_records(
        tmp_path, [task(result("pairwise", to, selected="left"), data=data)], outputs=names
    )
    assert items[0].row["completions"] == [data[name] for name in names]


@pytest.mark.parametrize(
    ("ranker", "ranking"),
    [
        ({"rank": ["z", "x", "y"]}, [2, 3, 1]),
        (["z", "x", "y"], [2, 3, 1]),
        ({"rank": ["z", "x"]}, [2, None, 1]),
        ({"_": [], "best": ["y"], "good": ["x", "z"]}, [2, 1, 2]),
        ({"_": ["x"], "best": ["y"], "good": [], "bad": ["z"]}, [None, 1, 2]),
        ({"_": ["y", "z"], "relevant": ["x"], "biased": []}, [1, None, None]),
        ({"best": ["x"], "bad": ["y", "z"]}, [1, 2, 2]),
    ],
)
def test_rankers(ranker: Any, ranking: list[int | None], tmp_path: Path) -> None:
    data = {"prompt": "Say hi", "tags": ["home", "garden"], "items": ITEMS}
    items, _ = read_records(tmp_path, [task(result("ranker", ranker=ranker), data=data)])
    assert rankings(items) == [ranking]
    assert items[0].row["completions"] == ["text x", "text y", "text z"]


@pytest.mark.parametrize(
    ("ranker", "said"),
    [
        ("zxy", "the ranker 'q' has 'zxy'; it needs a list of ids"),
        ({"rank": ["gone", "x"]}, "no list of the task has the ranked ids gone, x; lists: items"),
    ],
)
def test_a_ranker_of_something_else_is_one_line(ranker: Any, said: str, tmp_path: Path) -> None:
    data = {"prompt": "Say hi", "items": ITEMS}
    with pytest.raises(DataError, match=said) as caught:
        read_records(tmp_path, [task(result("ranker", ranker=ranker), data=data)])
    assert "\n" not in str(caught.value)


def test_nothing_moved_in_a_ranker_is_counted(tmp_path: Path) -> None:
    data = {"prompt": "Say hi", "items": ITEMS}
    still = task(result("ranker", ranker={"_": ["x", "y", "z"], "best": []}), data=data)
    with pytest.raises(DataError, match="1 rankers in which nothing was moved"):
        read_records(tmp_path, [still])


def test_choices_ratings_and_texts(tmp_path: Path) -> None:
    tasks = [
        task(result("choices", choices=["answer2"]), result("textarea", name="why", text=["Kinder.", "So."])),
        task(result("choices", choices=["tie"])),
        task(
            result("rating", "answer1", "r1", rating=2),
            result("rating", "answer2", "r2", rating=4),
        ),
    ]
    items, notes = read_records(tmp_path, tasks)
    assert rankings(items) == [[2, 1], [1, 1], [2, 1]]
    assert items[0].row["note"] == "Kinder.\nSo."
    assert items[2].row["scores"] == [2, 4]
    assert "ratings give the ranking of each person: the higher is better" in notes


def test_a_text_edits_only_where_the_user_names_its_question(tmp_path: Path) -> None:
    tasks = [task(result("textarea", "answer2", "better", text=["hello"]))]
    with pytest.raises(DataError, match="nothing in it could be read: passed over: 1 free texts of question"):
        read_records(tmp_path, tasks)
    items, _ = read_records(tmp_path, tasks, edit="better")
    row = items[0].row
    assert (items[0].table, row["output"], row["text"]) == ("edits", "go away", "hello")


def test_what_no_person_said_is_passed_over_and_counted(tmp_path: Path) -> None:
    pair = result("pairwise", "answer1,answer2", selected="left")
    tasks = [
        task(pair),
        task(pair, was_cancelled=True),
        task() | {"predictions": [{"result": [pair]}]},
        task(pair) | {"annotations": []},
        task(pair, result("labels", labels=["x"])),
    ]
    items, notes = read_records(tmp_path, tasks)
    assert rankings(items) == [[1, 2], [1, 2]]
    counted = "\n".join(notes)
    for said in (
        "1 cancelled annotations",
        "1 predictions",
        "1 tasks without an annotation",
        "1 annotations without a result",
        "1 results of type 'labels', question 'q'",
    ):
        assert f"passed over: {said}" in counted


def test_words_that_name_no_output_are_refused_or_mapped(tmp_path: Path) -> None:
    tasks = [task(result("choices", choices=[word])) for word in ("upper", "lower")]
    with pytest.raises(DataError, match=r"row 1: .* question 'q': 'upper' \(1\), 'lower' \(1\)"):
        read_records(tmp_path, tasks)
    items, _ = read_records(tmp_path, tasks, words={"upper": "first", "lower": "second"})
    assert rankings(items) == [[1, 2], [2, 1]]


def flat(data: dict[str, Any] | None = None, **answers: Any) -> dict[str, Any]:
    row = {**(data or DATA), "id": 1, **answers}
    return row | {"annotator": 3, "annotation_id": 5, "created_at": "2024-01-01", "lead_time": 6.5}


def test_flat_exports(tmp_path: Path) -> None:
    listed = {"prompt": "Say hi", "items": ITEMS}
    rows = [
        flat(pw="right", why="Kinder."),
        flat(choice="tie"),
        flat(listed, rank={"rank": ["z", "x", "y"]}),
        flat(r_answer1=1, r_answer2=4),
    ]
    for row, ranking in zip(rows, ([2, 1], [1, 1], [2, 3, 1], [2, 1]), strict=True):
        items, _ = read_records(tmp_path, [row])
        assert rankings(items) == [ranking]
        assert (items[0].row["labeler_id"], items[0].row["seconds"]) == ("label-studio-3", 6.5)
        assert items[0].row["prompt"] == "Say hi"
    items, notes = read_records(tmp_path, rows[:1])
    assert items[0].row["note"] == "Kinder."
    assert any(note.startswith("left is 'answer1' and right is 'answer2'") for note in notes)


@pytest.mark.parametrize("suffix", [".json", ".csv"])
@pytest.mark.parametrize(
    ("data", "answers", "ranking"),
    [
        (DATA, {"pw": [{"selected": "right"}]}, [2, 1]),
        (DATA, {"r_answer1": [{"rating": 2}], "r_answer2": [{"rating": 4}]}, [2, 1]),
        (
            DATA,
            {"n_answer1": [{"number": 2.5}], "n_answer2": [{"number": 1}], "why": {"text": ["a"]}},
            [1, 2],
        ),
        ({"prompt": "Say hi", "items": ITEMS}, {"rank": [{"ranker": ["z", "x", "y"]}]}, [2, 3, 1]),
        ({"prompt": "Say hi", "items": ITEMS}, {"rank": [{"ranker": {"rank": ["z", "x"]}}]}, [2, None, 1]),
    ],
)
def test_flat_answers_that_are_lists_of_results(
    data: dict[str, Any], answers: dict[str, Any], ranking: list[int | None], suffix: str, tmp_path: Path
) -> None:
    for row in (flat(data, **answers), dict(sorted(flat(data, **answers).items()))):
        path = tmp_path / f"export{suffix}"
        if suffix == ".csv":
            cells = {k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in row.items()}
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(cells))
                writer.writeheader()
                writer.writerow(cells)
        else:
            path.write_text(json.dumps([row]))
        items, _ = read_path(path)
        assert rankings(items) == [ranking]


def test_buckets_in_another_order_are_asked_about(tmp_path: Path) -> None:
    data = {"prompt": "Say hi", "items": ITEMS}
    buckets: list[dict[str, list[str]]] = [
        {"good": ["x"], "fair": ["y"], "_": ["z"]},
        {"fair": ["y"], "_": ["z"]},
        {"fair": ["y"], "good": ["x"], "_": ["z"]},
    ]
    tasks = [task(result("ranker", ranker=ranker), data=data) for ranker in buckets]
    assert len(rankings(read_records(tmp_path, tasks[:2])[0])) == 2
    with pytest.raises(
        DataError, match=r"row 3: the buckets of the ranker 'q' are fair, good .* in one order"
    ):
        read_records(tmp_path, tasks)


def test_buckets_whose_names_say_that_the_worst_comes_first_are_asked_about(tmp_path: Path) -> None:
    data = {"prompt": "Say hi", "items": ITEMS}
    tasks = [task(result("ranker", ranker={"bad": ["x"], "good": ["y", "z"]}), data=data)]
    with pytest.raises(DataError, match=r"'bad' comes before 'good'; set ingest\.direction to higher"):
        read_records(tmp_path, tasks)
    assert rankings(read_records(tmp_path, tasks, direction="higher")[0]) == [[2, 1, 1]]
    assert rankings(read_records(tmp_path, tasks, direction="lower")[0]) == [[1, 2, 2]]


def test_a_flat_pair_in_another_order_is_asked_about(tmp_path: Path) -> None:
    swapped = {"prompt": "Say hi", "answer2": "go away", "answer1": "hi"}
    with pytest.raises(DataError, match=r"which of the fields 'answer1', 'answer2' are the outputs"):
        read_records(tmp_path, [flat(swapped, pw="left")])
    items, _ = read_records(tmp_path, [flat(swapped, pw="left")], outputs=["answer2", "answer1"])
    assert (items[0].row["completions"], rankings(items)) == (["go away", "hi"], [[1, 2]])


def test_a_flat_csv(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    row = flat({"prompt": "Say hi", "items": json.dumps(ITEMS)}, rank=json.dumps({"rank": ["y", "x", "z"]}))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    items, _ = read_path(path)
    assert rankings(items) == [[2, 1, 3]]
    assert (items[0].row["labeler_id"], items[0].row["seconds"]) == ("label-studio-3", 6.5)


@pytest.mark.parametrize(
    ("name", "ranking", "number"),
    [
        ("ls-chat.json", [1, 2], 5),
        ("ls-choices.json", [1, 2], 6),
        ("ls-min-pair.json", [1, 2], 5),
        ("ls-min-ranker.json", [2, 3, 1], 5),
        ("ls-pair-id.json", [1, 2], 5),
        ("ls-pair-swap.json", [1, 2], 5),
        ("ls-ranker-buckets.json", [1, None, None], 5),
        ("ls-ranker-list.json", [2, 3, 1], 5),
        ("ls-ranker-otherlist.json", [2, 3, 1], 5),
    ],
)
def test_cases(name: str, ranking: list[int | None], number: int) -> None:
    items, _ = read_path(case(name))
    assert (rankings(items)[0], len(items)) == (ranking, number)
    assert items[0].row["completions"][0].startswith("First look")


@pytest.mark.parametrize(
    ("answers", "ranking"),
    [
        ({"pw": "left"}, [1, 2]),
        ({"choice": "answer2"}, [2, 1]),
        ({"choice": "tie"}, [1, 1]),
        ({"rating_answer1": "2", "rating_answer2": "5"}, [2, 1]),
    ],
)
def test_a_csv_with_its_columns_sorted(answers: dict[str, str], ranking: list[int], tmp_path: Path) -> None:
    row = flat({"topic": "home", **DATA}, **answers)
    path = tmp_path / "export.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted(row))
        writer.writeheader()
        writer.writerow(row)
    items, _ = read_path(path)
    assert rankings(items) == [ranking]
    assert (items[0].row["prompt"], items[0].row["completions"]) == ("Say hi", ["hi", "go away"])
    assert items[0].row["note"] is None  # the topic is no answer


def test_conversations_under_other_names(tmp_path: Path) -> None:
    chat = [
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Yes?"},
        {"from": "human", "value": "Go"},
    ]
    data = {"dialogue": chat, "answer1": "a", "answer2": "b"}
    pair = result("pairwise", "answer1,answer2", selected="right")
    items, _ = read_records(tmp_path, [task(pair, data=data)])
    roles = ["user", "assistant", "user"]
    assert [turn["role"] for turn in items[0].row["messages"]] == roles
    assert rankings(items) == [[2, 1]]


def test_several_choices_are_chosen_in_no_order(tmp_path: Path) -> None:
    three = DATA | {"answer3": "good morning"}
    chosen = [["answer3", "answer1"], ["answer1", "answer2", "answer3"], ["answer2"]]
    items, _ = read_records(
        tmp_path, [task(result("choices", choices=names), data=three) for names in chosen]
    )
    assert rankings(items) == [[1, 2, 1], [1, 1, 1], [2, 1, 2]]


def test_what_is_asked_of_each_output_by_itself_prefers_none(tmp_path: Path) -> None:
    each = [result("choices", f"answer{k}", f"c{k}", choices=[word]) for k, word in ((1, "good"), (2, "bad"))]
    with pytest.raises(DataError, match="question 'c1', which is about one output alone"):
        read_records(tmp_path, [task(*each)], words={"good": "first", "bad": "second"})
    pair = result("pairwise", "answer1,answer2", selected="right")
    items, notes = read_records(tmp_path, [task(pair, *each)])
    assert rankings(items) == [[2, 1]]
    assert sum("which is about one output alone" in note for note in notes) == 2


@pytest.mark.parametrize("data", [{"draft": "x", "final": "y"}, {"u": "1", "v": "2", "w": "3"}])
def test_a_flat_pair_of_which_nothing_says_the_left_is_asked_about(
    data: dict[str, str], tmp_path: Path
) -> None:
    rows = [flat({"prompt": "p", **data}, pw="left")]
    with pytest.raises(DataError, match=r"row 1: nothing says which of the fields .* ingest.outputs"):
        read_records(tmp_path, rows)
    names = list(data)[1::-1]
    items, _ = read_records(tmp_path, rows, outputs=names)
    assert (items[0].row["completions"], rankings(items)) == ([data[name] for name in names], [[1, 2]])
