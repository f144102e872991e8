"""Tables that stages write and read back: as they are or not at all, and a few rows in hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rlhf.data import table as table_module
from rlhf.data.contracts import COMPARISON, DEMONSTRATION, PROMPT, with_ids
from rlhf.data.errors import DataError
from rlhf.data.table import TableWriter, read_table, write_table

RANKED: dict[str, Any] = {"prompt": "p", "completions": [" a", " b"], "ranking": [1, 1], "labeler_id": "ann"}


def test_tables_come_back_as_written_and_byte_for_byte(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}]
    rows = with_ids(COMPARISON, [RANKED, RANKED | {"messages": talk}], "s")
    for name in ("one", "two"):
        write_table(tmp_path / name, COMPARISON, rows)
    back = read_table(tmp_path / "one", COMPARISON)
    assert back == [dict.fromkeys(COMPARISON.schema.names) | row for row in rows]
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


ROW: dict[str, Any] = {"prompt": "p", "completions": ["a", "b", "c"], "ranking": [1, 2, 3]}


def test_tables_are_written_as_they_are_or_not_at_all(tmp_path: Path) -> None:
    for changes in ({"policies": "sft"}, {"ranking": [1.33, 1.67, 2]}, {"strength": 2.5}, {"prompt": b"p"}):
        with pytest.raises(DataError, match="wrong type"):
            write_table(tmp_path / "t.parquet", COMPARISON, [ROW | changes])
    assert not (tmp_path / "t.parquet").exists()
    write_table(tmp_path / "t.parquet", COMPARISON, [ROW | {"shown_order": (2, 0, 1), "seconds": 1}])
    assert read_table(tmp_path / "t.parquet", COMPARISON)[0]["shown_order"] == [2, 0, 1]


def test_tables_from_before_there_were_conversations_are_plain_text(tmp_path: Path) -> None:
    rows = with_ids(COMPARISON, [RANKED], "s")
    write_table(tmp_path / "t", COMPARISON, rows)
    pq.write_table(pq.read_table(tmp_path / "t").drop_columns(["messages", "margin"]), tmp_path / "old")
    assert read_table(tmp_path / "old", COMPARISON) == read_table(tmp_path / "t", COMPARISON)
    assert read_table(tmp_path / "old", COMPARISON)[0]["messages"] is None
    with pytest.raises(DataError, match="columns differ in"):
        read_table(tmp_path / "old", PROMPT)


def test_a_table_is_a_sequence_of_rows_over_any_number_of_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "_GROUP_ROWS", 2048)
    splits = ("train", "test", None)
    rows = [
        dict.fromkeys(DEMONSTRATION.schema.names)
        | {"prompt": f"q{i}", "completion": f" a{i}", "split": splits[i % 3], "source": "s", "id": str(i)}
        for i in range(5000)
    ]
    write_table(tmp_path / "t", DEMONSTRATION, iter(rows))
    assert pq.ParquetFile(tmp_path / "t").num_row_groups == 3
    table = read_table(tmp_path / "t", DEMONSTRATION)
    assert list(table) == rows
    assert table == rows
    assert table != rows[1:]
    assert (table[0], table[2047], table[2048], table[-1]) == (rows[0], rows[2047], rows[2048], rows[-1])
    assert table[2040:2060] == rows[2040:2060]
    assert table[4990::3] == rows[4990::3]
    with pytest.raises(IndexError):
        table[5000]

    test = table.where("split", "test")
    assert list(test) == rows[1::3]
    assert test[100:103] == rows[1::3][100:103]
    assert list(test.where("id", ["4", "7", "5"])) == [rows[4], rows[7]]
    assert list(table.take([4999, 3, 2500])) == [rows[4999], rows[3], rows[2500]]
    assert test.column("prompt").to_pylist() == [row["prompt"] for row in rows[1::3]]
    assert test.rows(["split", "prompt"]) == [
        {"split": row["split"], "prompt": row["prompt"]} for row in rows[1::3]
    ]
    assert [batch.schema.names for batch in table.batches(["id"])] == [["id"]] * 3


def test_a_table_is_the_same_file_in_whatever_portions_it_is_written(tmp_path: Path) -> None:
    rows = with_ids(PROMPT, [{"prompt": f"q{i}"} for i in range(3000)], "s")
    write_table(tmp_path / "whole", PROMPT, rows)
    with TableWriter(tmp_path / "parts", PROMPT) as writer:
        for start in range(0, 3000, 7):
            writer.write(rows[start : start + 7])
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    with TableWriter(tmp_path / "batches", PROMPT) as writer:
        for batch in read_table(tmp_path / "whole", PROMPT).batches(["prompt", "id"]):
            writer.write_batch(batch)
    assert [row["id"] for row in read_table(tmp_path / "batches", PROMPT)] == [row["id"] for row in rows]


def test_a_wrong_row_is_named_by_its_number_and_leaves_nothing(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "q"}] * 1500 + [{"prompt": 7}] + [{"prompt": "q"}] * 9
    with pytest.raises(DataError, match=r"prompt 1501 has a value of the wrong type: prompt 7 is no string"):
        write_table(tmp_path / "t", PROMPT, rows)
    with pytest.raises(DataError, match=r"prompt 1 .* prompt '.ud800' is no string"):
        write_table(tmp_path / "t", PROMPT, [{"prompt": "\ud800"}])
    assert list(tmp_path.iterdir()) == []
