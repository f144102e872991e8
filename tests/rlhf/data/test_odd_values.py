"""Values that JSON and Arrow can spell and nothing can hold: each is refused by file and row, in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeling.candidates import read_candidates
from rlhf.data.errors import DataError
from rlhf.data.files_source import files, write_files
from rlhf.data.formats.json_files import DEEPEST, value_of
from rlhf.data.formats.records import records
from rlhf.data.layouts.layout import Options
from rlhf.data.part_records import SAMPLE
from rlhf.data.reading import Source
from rlhf.data.shown import LINE, one_line, shown

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
LEVELS = f"more than {DEEPEST} lists or objects within each other; leave the row out"


def deep(levels: int, opens: str = "[", closes: str = "]") -> str:
    """JSON of lists or objects within each other."""
    return opens * levels + "1" + closes * levels


def refusal(path: Path, **options: Any) -> str:
    """The error of a file, row by row."""
    with pytest.raises(DataError) as caught:
        files([Source(str(path), options=Options(**options))], "r")
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 400 + len(str(path))
    return str(caught.value)


@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
def test_a_value_of_as_many_levels_as_allowed_is_read_and_one_more_is_not(brackets: tuple[str, str]) -> None:
    assert value_of(deep(DEEPEST, *brackets))
    assert value_of(json.dumps([[[1]]] * DEEPEST))  # many are not deep
    with pytest.raises(DataError, match=LEVELS):
        value_of(deep(DEEPEST + 1, *brackets))


@pytest.mark.parametrize("before", [1, SAMPLE + 20])
def test_a_row_that_is_too_deep_is_named_wherever_it_stands(before: int, tmp_path: Path) -> None:
    """Behind the first rows a file is read in blocks, by Arrow, which has no such limit."""
    path = tmp_path / "rows.jsonl"
    row = json.dumps(PAIR)[:-1] + f', "beside": {deep(DEEPEST + 1)}}}'
    path.write_text("".join(json.dumps(PAIR | {"prompt": f"p{i}"}) + "\n" for i in range(before)) + row)
    with pytest.raises(DataError, match=f"row {before + 1}: {LEVELS}"):
        write_files([Source(str(path))], tmp_path / "out")
    assert f"row {before + 1}: {LEVELS}" in refusal(path)
    path = tmp_path / "rows.json"
    path.write_text(f"[{row}]")
    assert f"row 1: {LEVELS}" in refusal(path)


@pytest.mark.parametrize("column", ["margin", "prompt", "labeler_id", "split", "strength", "seconds"])
def test_a_number_of_400_digits_is_no_value_of_a_row(column: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(PAIR | {column: 10**400}) + "\n")
    if column == "labeler_id":
        assert files([Source(str(path))], "r").tables["comparisons"][0]["labeler_id"] == str(10**400)
    else:
        assert f"'{column}'" in refusal(path)


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (pa.timestamp("us"), 2**62),
        (pa.date32(), 2**30),
        (pa.duration("s"), 2**62),
        (pa.timestamp("s", "Moon/Base"), 1),
    ],
)
def test_a_date_or_time_that_is_none_is_named(kind: pa.DataType, number: int, tmp_path: Path) -> None:
    whole = pa.int32() if kind == pa.date32() else pa.int64()
    table = pa.table({"prompt": ["p"] * 3, "created": pa.array([None, number, 1], whole).view(kind)})
    with pa.ipc.new_file(tmp_path / "r.arrow", table.schema) as file:
        file.write_table(table)
    pq.write_table(table, tmp_path / "r.parquet")
    for name in ("r.arrow", "r.parquet"):
        with pytest.raises(
            DataError, match=rf"{name}: row 2: column 'created' \(.*\) holds what is no value"
        ):
            list(records(tmp_path / name))


def test_an_extra_that_is_no_object_keeps_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    ranked = {"prompt": "p", "completions": ["a", "b"], "ranking": [1, 2], "topic": "home"}
    for extra, said in (("[1]", "'extra' is [1]; it must be an object"), ("{", "not valid JSON")):
        path.write_text(json.dumps(ranked | {"extra": extra}) + "\n")
        assert said in refusal(path, keep=("topic",))


def test_a_message_does_not_grow_with_the_columns_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({f"strange column {i}": "x" for i in range(5000)}) + "\n")
    with pytest.raises(DataError) as caught:
        files([Source(str(path))], "r")
    assert len(str(caught.value)) <= LINE


def test_what_is_shown_is_short_and_on_one_line() -> None:
    assert shown("é\n") == r"'\xe9\n'"
    assert shown([0] * 1000, 10) == "[0, 0, ..."
    assert shown(16**5000) == "a int too long to show"
    assert one_line("a\r\nb") == r"a\r\nb"
    assert one_line("x" * 99 + "end", 50) == "x" * 22 + " ... " + "x" * 19 + "end"


@pytest.mark.parametrize("expected", [deep(DEEPEST + 1), '{"a": 1, "a": 2}', "9" * 5000, "{", "NaN"])
def test_a_known_answer_that_is_no_json_is_named_with_its_row(expected: str, tmp_path: Path) -> None:
    """Of a queue that an operator fills: it ended in a traceback, and in the app with status 500."""
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps({"prompt": "p", "output": "a", "expected": expected}) + "\n")
    with pytest.raises(DataError, match=r"items.jsonl: row 1: 'expected': "):
        read_candidates(path)
