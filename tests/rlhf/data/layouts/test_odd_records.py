"""A layout is told by the first records, so any other may be odd: it is read, or refused by file and row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from layout_fixtures import FIXTURES

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Notes
from rlhf.data.reading import Quarantined, Source, read

# What JSON can hold where something else is expected; `None` first leaves the column out.
ODD: tuple[Any, ...] = (None, 7, True, "x", [], [[]], {}, [{}], [None], {"x": [1]}, 10**400, "[{")


@pytest.mark.parametrize("name", FIXTURES)
def test_a_record_that_is_odd_in_one_column_is_read_or_refused_by_its_row(name: str, tmp_path: Path) -> None:
    layout, records = FIXTURES[name]
    path = tmp_path / "rows.jsonl"
    odd = records[1]
    for place, column in enumerate(odd):
        for number, value in enumerate((None, *(ODD[(place + step) % len(ODD)] for step in (1, 5)))):
            changed = {key: cell for key, cell in odd.items() if key != column}
            changed |= {} if number == 0 else {column: value}
            rows = [records[0], changed, *records[2:]]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            try:
                list(read(Source(str(path), layout=layout), Notes()))
            except DataError as error:
                line = str(error)
                assert line.startswith(str(path)), (column, value, line)
                assert "\n" not in line
                assert len(line) < 1000, (column, value, len(line))


def test_a_row_without_a_column_of_its_layout_says_which_and_can_be_put_aside(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "ref": "r", "sys_name": "ppo", "sys_summ": f"s{i}", "scores": {"overall": i}}
        for i in range(3)
    ]
    del rows[1]["id"]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        DataError, match=r"row 2: 'id' is missing, which a record of the layout \S+ has; mend"
    ):
        list(read(Source(str(path)), Notes()))
    aside: list[Quarantined] = []
    list(read(Source(str(path), unreadable="quarantine"), Notes(), aside.append))
    assert [row.where for row in aside] == [f"{path}: row 2"]
