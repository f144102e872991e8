"""CSV that people bring: cells that hold JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.data.contracts import COMPARISON
from rlhf.data.errors import DataError
from rlhf.data.readers import read_rows


def test_csv_lists_must_be_json(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('prompt,completions,ranking\np,"a; b",1 2\n')
    with pytest.raises(DataError, match="row 1: column 'completions': 'a; b' is not a list"):
        read_rows(tmp_path / "c.csv", COMPARISON)


def test_a_csv_cell_that_is_json_text_is_no_list(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text('prompt,completions,ranking,policies\np,"[""a"", ""b""]","[1, 2]","""ab"""\n')
    with pytest.raises(DataError, match=r"column 'policies': 'ab' is no list<.*>; write a list of texts"):
        read_rows(path, COMPARISON)
