"""Row types: ids, tables, and the readers of users' files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.data.contracts import COMPARISON, DEMONSTRATION, PROMPT, row_id, with_ids
from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json, written_beside
from rlhf.data.readers import read_rows
from rlhf.data.table import read_table, write_table

ROW = {"prompt": "héllo", "completion": " 🙂\nworld\u2028.", "writer_id": None}
RANKED: dict[str, Any] = {"prompt": "p", "completions": [" a", " b"], "ranking": [1, 1], "labeler_id": "ann"}


def test_ids_are_hashes_of_the_content_alone() -> None:
    # sha256 of '["héllo", "x", null]' in UTF-8
    assert row_id(DEMONSTRATION, {"prompt": "héllo", "completion": "x"}) == "886cda0f4b633dd3"
    assert row_id(DEMONSTRATION, {**ROW, "split": "test", "source": "a"}) == row_id(DEMONSTRATION, ROW)
    assert row_id(COMPARISON, {**RANKED, "ranking": [1, 2]}) != row_id(COMPARISON, RANKED)


def test_with_ids_keeps_what_is_given() -> None:
    rows = with_ids(PROMPT, [{"prompt": "a", "id": "7", "source": "s"}, {"prompt": "b"}], "t")
    assert [(row["id"], row["source"]) for row in rows] == [
        ("7", "s"),
        (row_id(PROMPT, {"prompt": "b"}), "t"),
    ]


def test_tables_come_back_as_written_and_byte_for_byte(tmp_path: Path) -> None:
    rows = with_ids(COMPARISON, [RANKED], "s")
    for name in ("one", "two"):
        write_table(tmp_path / name, COMPARISON, rows)
    back = read_table(tmp_path / "one", COMPARISON)
    assert back == [dict.fromkeys(COMPARISON.schema.names) | rows[0]]
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    write_table(tmp_path / "none", COMPARISON, [])
    assert read_table(tmp_path / "none", COMPARISON) == []


def test_tables_of_another_kind_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "t", PROMPT, [])
    with pytest.raises(DataError, match="not a table of comparisons"):
        read_table(tmp_path / "t", COMPARISON)
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "gone", PROMPT)
    (tmp_path / "t").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a Parquet file"):
        read_table(tmp_path / "t", PROMPT)
    with pytest.raises(DataError, match="wrong type"):
        write_table(tmp_path / "t", PROMPT, [{"prompt": 5}])
    assert (tmp_path / "t").read_bytes() == b"PAR1 no"


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
        assert read_rows(tmp_path / f"r.{suffix}", COMPARISON) == rows, suffix


def test_jsonl_may_hold_line_separators_byte_order_marks_and_windows_ends(tmp_path: Path) -> None:
    text = json.dumps(ROW, ensure_ascii=False)
    assert "\u2028" in text
    (tmp_path / "r.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{text}\r\n\r\n{text}".encode())
    assert read_rows(tmp_path / "r.jsonl", DEMONSTRATION) == [ROW, ROW]


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("d.txt", b"x", "unknown file type '.txt'"),
        ("d.jsonl", b"", "the file is empty"),
        ("d.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", "compl', "row 2: not valid JSON"),
        ("d.jsonl", b'{"prompt": "a"}', "row 1: column 'completion' is missing"),
        (
            "d.jsonl",
            b'{"prompt": "a", "completion": ["b"]}',
            "row 1: column 'completion': ['b'] is no string",
        ),
        ("d.json", b'[{"prompt": "a"', "not valid JSON"),
        ("d.json", b'{"prompt": "a"}', "expected a JSON list"),
        ("d.csv", b"prompt,completion\na,b\nc", "row 2: fewer cells than the header"),
        ("d.csv", b'prompt,completion\na,b\nc,"cut of', "not valid CSV"),
        ("d.csv", b"prompt,completion\na,b,c\n", "row 1: unknown column"),
        ("d.csv", b"prompt,completion\n", "no rows"),
        ("d.csv", b"prompt,completion\na,\xff\n", "row 2: not UTF-8 (byte 0xff)"),
        ("d.parquet", b"PAR1", "not a Parquet file"),
    ],
)
def test_unreadable_files_are_one_line(name: str, raw: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / name, DEMONSTRATION)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / name}: ")
    assert said in message
    assert "\n" not in message


def test_a_cut_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "d.parquet")
    raw = (tmp_path / "d.parquet").read_bytes()
    (tmp_path / "d.parquet").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match="cut off"):
        read_rows(tmp_path / "d.parquet", DEMONSTRATION)


def test_csv_lists_must_be_json(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('prompt,completions,ranking\np,"a; b",1 2\n')
    with pytest.raises(DataError, match="row 1: column 'completions': 'a; b' is not a list"):
        read_rows(tmp_path / "c.csv", COMPARISON)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_holds_no_nan_and_the_line_names_the_figure(tmp_path: Path, number: float) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": None})
    with pytest.raises(DataError, match=r"metrics\.json: policies\.ppo\.1 is NaN or infinite"):
        write_json(path, {"loss": 0.5, "policies": {"ppo": [0.1, number]}})
    assert read_json(path) == {"loss": None}


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": "é",\n  "b": 1\n}\n'

    def fail() -> None:
        with written_beside(tmp_path / "a.json") as beside:
            beside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_json(tmp_path / "a.json") == {"a": "é", "b": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for names in (("a", "b"), ("c",)):
        with written_beside(tmp_path / "folder") as beside:
            beside.mkdir()
            for name in names:
                (beside / name).touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["c"]
