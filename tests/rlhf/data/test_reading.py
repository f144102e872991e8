"""Rows that people bring: a value stays as it is or is refused, and rankings keep their order."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

from rlhf.data.contracts import COMPARISON
from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Notes
from rlhf.data.rankings import dense_ranks
from rlhf.data.reading import Source, read
from rlhf.data.table import write_table

DEMONSTRATED = {"prompt": "héllo", "completion": " 🙂\nworld\u2028.", "writer_id": None}


Rows = list[dict[str, Any]]


def rows_of(path: Path, table: str | None = None, notes: Notes | None = None, **more: Any) -> Rows:
    """The rows of a file, all of one table, without what the reading adds."""
    rows = []
    for item in read(Source(str(path), layout=table, **more), notes or Notes()):
        assert table in (None, item.table)
        rows.append({k: v for k, v in item.row.items() if k != "source" and (k != "split" or v)})
    return rows


RANKED: dict[str, Any] = {"prompt": "p", "completions": [" a", " b"], "ranking": [1, 1], "labeler_id": "ann"}


def test_the_same_rows_from_every_file_type(tmp_path: Path) -> None:
    rows = [RANKED | {"seconds": 2.5}, RANKED | {"prompt": 'a, "b"\nc', "seconds": None}]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "r.json").write_text(json.dumps(rows))
    frame = pd.DataFrame(
        [{k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
    )
    frame.to_csv(tmp_path / "r.csv", index=False)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    for suffix in ("jsonl", "json", "csv", "parquet"):
        assert rows_of(tmp_path / f"r.{suffix}", "comparisons") == rows, suffix


def test_jsonl_may_hold_line_separators_byte_order_marks_and_windows_ends(tmp_path: Path) -> None:
    text = json.dumps(DEMONSTRATED, ensure_ascii=False)
    assert "\u2028" in text
    (tmp_path / "r.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{text}\r\n\r\n{text}".encode())
    assert rows_of(tmp_path / "r.jsonl", "demonstrations") == [DEMONSTRATED, DEMONSTRATED]


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("d.doc", b"x", "unknown file type '.doc'"),
        ("d.txt", b"x", "no header of several columns"),
        ("d.jsonl", b"", "the file is empty"),
        ("d.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", "compl', "row 2: not valid JSON"),
        ("d.jsonl", b'{"prompt": "a"}', "row 1: column 'completion' is missing"),
        (
            "d.jsonl",
            b'{"prompt": "a", "completion": ["b"]}',
            "row 1: column 'completion': ['b'] is no string",
        ),
        ("d.json", b'[{"prompt": "a"', "not valid JSON"),
        ("d.json", b'{"prompt": "a"}', "row 1: column 'completion' is missing"),
        ("d.json", b'"a"', "expected a list of rows"),
        ("d.json", b'{"a": {"0": 1}, "b": {"1": 2}}', "an object of columns, which have not the same rows"),
        ("d.json", b'{"a": [{"x": 1}], "b": [{"y": 2}]}', "several lists of rows, a, b"),
        ("d.jsonl", b'[{"prompt": "a", "completion": "b"}]', "let its name end in .json"),
        ("d.jsonl", b'{\n"prompt": "a"}', "row 1: not valid JSON"),
        (
            "d.jsonl",
            b'{"prompt": "a", "prompt": "b", "completion": "c"}',
            "row 1: the key 'prompt' stands twice",
        ),
        ("d.jsonl", b'{"prompt": NaN, "completion": "c"}', "row 1: NaN is no number"),
        ("d.csv", b"prompt,completion\na,b\nc", "row 2: 1 cells, fewer than the 2 of the header"),
        ("d.csv", b'prompt,completion\na,b\nc,"cut of', "not valid CSV"),
        ("d.csv", b"prompt,completion\na,b,c\n", "row 1: 3 cells, more than the 2 of the header"),
        ("d.csv", b"prompt,completion\n", "no rows"),
        ("d.csv", b"prompt,completion\na,\xff\n", "line 2: not UTF-8 (byte 0xff)"),
        ("d.parquet", b"PAR1", "not a Parquet file"),
        ("d.jsonl", b'{"messages": [{"role": "user", "content": "a"}]}', "row 1: nothing answers the last"),
        ("d.jsonl", b'{"messages": [], "completion": "b"}', "row 1: messages are no turns"),
        ("d.jsonl", b'{"messages": {"role": "user"}, "completion": "b"}', "row 1: messages are {'role'"),
        (
            "d.jsonl",
            b'{"messages": [{"role": "user", "content": "\\ud800"}], "completion": "b"}',
            "row 1: column 'messages'",
        ),
        ("d.csv", b"messages,completion\na,b\n", "row 1: messages are 'a'; write a list"),
    ],
)
def test_unreadable_files_are_one_line(name: str, raw: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError) as caught:
        rows_of(tmp_path / name, "demonstrations")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / name}: ")
    assert said in message
    assert "\n" not in message


def test_a_cut_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([DEMONSTRATED]), tmp_path / "d.parquet")
    raw = (tmp_path / "d.parquet").read_bytes()
    (tmp_path / "d.parquet").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match="cut off"):
        rows_of(tmp_path / "d.parquet", "demonstrations")


CASES = ROOT.parent / "shared" / "cases"
ROW: dict[str, Any] = {"prompt": "p", "completions": ["a", "b", "c"], "ranking": [1, 2, 3]}
SUFFIXES = ("jsonl", "json", "csv", "parquet")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the file type of the path, as people write them."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        names = list(rows[0])
        lines = [",".join(names)]
        for row in rows:
            cells = (value if isinstance(value, str) else json.dumps(value) for value in row.values())
            lines.append(",".join('"' + cell.replace('"', '""') + '"' for cell in cells))
        path.write_text("\n".join(lines) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_list_given_as_text_is_not_split_into_letters(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"r.{suffix}", [ROW, ROW | {"prompt": "q"}])
    assert [row["prompt"] for row in rows_of(path, "comparisons")] == ["p", "q"]
    path = write(tmp_path / f"r.{suffix}", [row | {"policies": "sft"} for row in (ROW, ROW)])
    with pytest.raises(DataError, match=r"row 1: column 'policies': .*sft.* is") as caught:
        rows_of(path, "comparisons")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("column", "value"),
    [("strength", 2.5), ("shown_order", [0, 1.5, 2]), ("seconds", [3]), ("strength", True)],
    ids=["fraction", "fraction in a list", "list", "truth value"],
)
def test_no_value_is_changed_by_a_cast(suffix: str, column: str, value: Any, tmp_path: Path) -> None:
    path = write(tmp_path / f"r.{suffix}", [ROW | {column: value}])
    with pytest.raises(DataError, match=f"row 1: column '{column}': .* is no .*; write"):
        rows_of(path, "comparisons")


@pytest.mark.parametrize("value", ["3", 2**63, -(2**70), {"1": 2}], ids=lambda value: str(value)[:8])
def test_what_is_no_whole_number_is_refused(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | {"strength": value}) + "\n")
    with pytest.raises(DataError, match=r"row 2: column 'strength': .* is no int64; write a whole number"):
        rows_of(path, "comparisons")
    with pytest.raises(DataError, match=r"comparison 1 has a value of the wrong type: strength"):
        write_table(tmp_path / "t.parquet", COMPARISON, [ROW | {"strength": value}])


def test_a_whole_number_written_with_a_point_is_one(tmp_path: Path) -> None:
    """pandas writes a column of whole numbers with gaps as 3.0."""
    path = write(tmp_path / "r.jsonl", [ROW | {"strength": 3.0, "shown_order": [2.0, 0, 1], "seconds": 4}])
    [row] = rows_of(path, "comparisons")
    assert (row["strength"], row["shown_order"], row["seconds"]) == (3, [2, 0, 1], 4.0)
    assert [type(row["strength"]), type(row["seconds"])] == [int, float]


@pytest.mark.parametrize("ranking", [["1", "b"], [1, "2"], [True, 2], [[1], [2]]])
def test_rankings_of_something_else_are_refused(ranking: list[Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no number"):
        dense_ranks(ranking)
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(ROW | {"completions": ["a", "b"], "ranking": ranking}) + "\n")
    with pytest.raises(DataError, match=r"row 1: .* in a ranking is no number; write"):
        rows_of(path, "comparisons")


@pytest.mark.skipif(not CASES.exists(), reason=f"no cases at {CASES}")
@pytest.mark.parametrize("name", ["mean-ranks", "ranks-half", "ranks-skip"])
def test_no_preference_is_lost_in_ranks_that_are_not_dense(name: str, tmp_path: Path) -> None:
    """Files as people have them."""
    case = CASES / f"{name}.comparisons.jsonl"
    written = [json.loads(line)["ranking"] for line in case.read_text().splitlines()]
    notes = Notes()
    read_back = [row["ranking"] for row in rows_of(case, notes=notes)]
    [note] = notes.lines()
    assert f"such as {next(r for r in written if r != dense_ranks(r))} as" in note
    assert "the smallest number is best" in note
    for before, after in zip(written, read_back, strict=True):
        assert set(after) == set(range(1, max(after) + 1))
        for i, j in combinations(range(len(before)), 2):
            assert (before[i] > before[j]) == (after[i] > after[j])
            assert (before[i] == before[j]) == (after[i] == after[j])


def test_dense_rankings_are_left_alone_and_not_mentioned(tmp_path: Path) -> None:
    notes: list[str] = []
    path = write(tmp_path / "r.jsonl", [ROW, ROW | {"ranking": [2.0, 1.0, 1.0]}])
    assert [row["ranking"] for row in rows_of(path, "comparisons", notes)] == [[1, 2, 3], [2, 1, 1]]
    assert notes == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "a.jsonl",
            '{"prompt": "p", "completions": ["x", "y"], "ranking": [1, 1%s]}' % ("0" * 5000),
            "too long",
        ),
        (
            "a.json",
            '[{"prompt": "p", "completions": ["x", "y"], "ranking": [1, 1%s]}]' % ("0" * 5000),
            "too long",
        ),
        ("a.csv", 'prompt,completions,ranking\np,"[""x"", ""y""]","[1, 1%s]"\n' % ("0" * 5000), "too long"),
        ("a.jsonl", "[" * 100_000, "too deep"),
        ("a.json", "[" * 100_000, "too deep"),
        ("a.csv", 'prompt,completions,ranking\np,"[""x""]",%s\n' % ("[" * 100_000), "too deep"),
        (
            "a.jsonl",
            '{"prompt": "p", "completions": ["x", "y"], "ranking": [1, 2], "seconds": 1%s}' % ("0" * 400),
            "'seconds'",
        ),
        (
            "a.csv",
            'prompt,completions,completions,ranking\np,"[""x""]","[""y""]",[1]\n',
            "'completions' twice",
        ),
    ],
)
def test_what_no_reader_can_take_is_refused_in_one_line(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        rows_of(tmp_path / name, "comparisons")
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_conversations_from_every_file_type(tmp_path: Path) -> None:
    asked = [{"role": "system", "content": "s"}, {"role": "user", "content": 'a, "b"\nc'}]
    rows = [
        {"messages": [*asked, {"role": "assistant", "content": "    x = 1\n"}]},
        {"messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "y"}]},
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "d.json").write_text(json.dumps(rows))
    pd.DataFrame([{"messages": json.dumps(row["messages"])} for row in rows]).to_csv(
        tmp_path / "d.csv", index=False
    )
    named = [{"messages": [turn | {"name": None} for turn in row["messages"]]} for row in rows]
    pq.write_table(pa.Table.from_pylist(named), tmp_path / "d.parquet")
    for suffix in ("jsonl", "json", "csv", "parquet"):
        first, second = rows_of(tmp_path / f"d.{suffix}", "demonstrations")
        assert first == {
            "prompt": 'System: s\n\nUser: a, "b"\nc',
            "messages": asked,
            "completion": "    x = 1\n",
        }, suffix
        assert second["prompt"] == "é"


def test_a_file_may_mix_plain_text_and_conversations(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "a"}]
    rows = [RANKED, {"messages": asked, "completions": ["x", "y"], "ranking": [1, 2], "labeler_id": "ann"}]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert rows_of(tmp_path / "r.jsonl", "comparisons") == [RANKED, rows[1] | {"prompt": "a"}]
