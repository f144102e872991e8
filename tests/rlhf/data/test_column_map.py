"""The map of columns: other names, texts of several columns, what lies within a column; and its faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.column_map import ColumnMap
from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Notes, Options
from rlhf.data.reading import Source, read

ROW = {"title": "Tea", "post": "How long?", "info": {"post": "inner", "tags": ["x", "y"]}, "n": 3}


def mapped(
    columns: dict[str, str], row: dict[str, Any] = ROW, known: set[str] | None = None
) -> dict[str, Any]:
    return ColumnMap(columns, set(ROW) if known is None else known)(row)


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        ("post", "How long?"),
        ("{title}: {post}", "Tea: How long?"),
        ("{post}", "How long?"),
        ("{n}", "3"),
        ("{{{title}}}\n", "{Tea}\n"),
        ("info.post", "inner"),
        ("info.tags.1", "y"),
        ("info.tags", ["x", "y"]),
        ("{title} {info.post}", "Tea inner"),
        ("always the same {{}}", "always the same {}"),
    ],
)
def test_what_a_column_may_be_made_of(wanted: str, value: Any) -> None:
    assert mapped({"prompt": wanted})["prompt"] == value


def test_columns_that_the_map_uses_go_and_others_stay() -> None:
    assert mapped({"prompt": "{title} {post}"}) == {"info": ROW["info"], "n": 3, "prompt": "Tea How long?"}
    assert mapped({"title": "post", "post": "title"})["title"] == "How long?"  # all at once


def test_a_column_whose_name_has_braces_or_points_is_itself() -> None:
    row = {"{title}": "a", "info.post": "b", "Response A": "c"}
    columns = {"x": "{title}", "y": "info.post", "z": "{Response A}!"}
    assert mapped(columns, row, set(row)) == {"x": "a", "y": "b", "z": "c!"}


def test_empty_cells_add_nothing_to_a_text_and_are_counted() -> None:
    empty: list[str] = []
    columns = ColumnMap({"prompt": "{title}: {post}"}, {"title", "post"}, empty.append)
    assert columns({"title": None, "post": "p"}) == {"prompt": ": p"}
    assert empty == ["title"]
    assert columns({"title": None, "post": None}) == {"prompt": None}
    assert columns({"post": "p"}) == {"prompt": ": p"}  # JSON leaves out what is null


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("question", "names 'question', but the columns are title, post, info, n"),
        ("{question}?", "names 'question', but the columns are"),
        ("{title", "'{title': .*; write a brace that is meant twice"),
        ("{title!r}", "between braces stands the name of a column and nothing else"),
        ("{n:5}", "between braces stands the name of a column and nothing else"),
        ("{}", "between braces stands the name of a column and nothing else"),
        ("{title} {info}", "makes a text of 'info', which is a dict"),
    ],
)
def test_a_map_that_cannot_be_used_is_one_line(wanted: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        mapped({"prompt": wanted})
    assert "\n" not in str(caught.value)


def test_a_file_under_other_names(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("title,body,good,bad,prompt\nTea,How long?,4,5,old\nRice,,6,7,old\n")
    columns = {"prompt": "{title}\n{body}", "chosen": "good", "rejected": "bad"}
    notes = Notes()
    rows = [item.row for item in read(Source(str(path), columns=columns), notes)]
    assert [(row["prompt"], row["completions"]) for row in rows] == [
        ("Tea\nHow long?", ["4", "5"]),
        ("Rice\n", ["6", "7"]),
    ]
    assert f"{path}: column 'prompt' gives way to what ingest.columns calls so" in notes.lines()
    assert notes.passed_over == {"empty cells of column 'body' in a text of ingest.columns": 1}


def test_a_column_that_is_missing_names_file_and_row(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"a": "x"}) + "\n")
    with pytest.raises(DataError, match=rf"{path}: row 1: ingest\.columns names 'b', but the columns are a"):
        list(read(Source(str(path), columns={"prompt": "b"}), Notes()))


def test_columns_beside_are_named_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    rows = [{"prompt": "p", "completion": "c", "colour": "red", "size": [1, None], "id": None}]
    rows.append({"prompt": "q", "completion": "c", "late": 5})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = Notes()
    assert ["extra" in item.row for item in read(Source(str(path)), notes)] == [False, False]
    [said] = notes.lines()
    assert said == (
        f"{path}: columns 'colour', 'size', 'late' not read as demonstrations; ingest.keep names the columns "
        "to keep"
    )
    for keep, extras in (
        (["colour"], ['{"colour": "red"}', None]),
        (["*"], ['{"colour": "red", "size": [1, null]}', '{"late": 5}']),
    ):
        items = list(read(Source(str(path), options=Options(keep=keep)), Notes()))
        assert [item.row.get("extra") for item in items] == extras
