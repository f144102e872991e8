"""Tables that stages write and read back: as they are or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rlhf.data.contracts import COMPARISON, PROMPT, with_ids
from rlhf.data.errors import DataError
from rlhf.data.table import read_table, write_table

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
    pq.write_table(pq.read_table(tmp_path / "t").drop_columns("messages"), tmp_path / "old")
    assert read_table(tmp_path / "old", COMPARISON) == read_table(tmp_path / "t", COMPARISON)
    assert read_table(tmp_path / "old", COMPARISON)[0]["messages"] is None
    with pytest.raises(DataError, match="columns differ in"):
        read_table(tmp_path / "old", PROMPT)
