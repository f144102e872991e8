"""Reading users' rows: a value stays as it is or is refused, and rankings of any numbers keep their order."""

from __future__ import annotations

import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

from labeling.imports import read_labels
from rlhf.data.contracts import COMPARISON
from rlhf.data.errors import DataError
from rlhf.data.folder import files
from rlhf.data.rankings import dense_ranks
from rlhf.data.readers import read_rows
from rlhf.data.table import read_table, write_table

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
    assert [row["prompt"] for row in read_rows(path, COMPARISON)] == ["p", "q"]
    path = write(tmp_path / f"r.{suffix}", [row | {"policies": "sft"} for row in (ROW, ROW)])
    with pytest.raises(DataError, match=r"row 1: column 'policies': .*sft.* is") as caught:
        read_rows(path, COMPARISON)
    assert "\n" not in str(caught.value)


def test_a_csv_cell_that_is_json_text_is_no_list(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text('prompt,completions,ranking,policies\np,"[""a"", ""b""]","[1, 2]","""ab"""\n')
    with pytest.raises(DataError, match=r"column 'policies': 'ab' is no list<.*>; write a list of texts"):
        read_rows(path, COMPARISON)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("column", "value"),
    [("strength", 2.5), ("shown_order", [0, 1.5, 2]), ("seconds", [3]), ("strength", True)],
    ids=["fraction", "fraction in a list", "list", "truth value"],
)
def test_no_value_is_changed_by_a_cast(suffix: str, column: str, value: Any, tmp_path: Path) -> None:
    path = write(tmp_path / f"r.{suffix}", [ROW | {column: value}])
    with pytest.raises(DataError, match=f"row 1: column '{column}': .* is no .*; write"):
        read_rows(path, COMPARISON)


@pytest.mark.parametrize(
    "value", ["3", float("nan"), float("inf"), 2**63, -(2**70), {"1": 2}], ids=lambda value: str(value)[:8]
)
def test_what_is_no_whole_number_is_refused(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | {"strength": value}) + "\n")
    with pytest.raises(DataError, match=r"row 2: column 'strength': .* is no int64; write a whole number"):
        read_rows(path, COMPARISON)
    with pytest.raises(DataError, match=r"comparison 1 has a value of the wrong type: strength"):
        write_table(tmp_path / "t.parquet", COMPARISON, [ROW | {"strength": value}])


def test_a_whole_number_written_with_a_point_is_one(tmp_path: Path) -> None:
    """pandas writes a column of whole numbers with gaps as 3.0."""
    path = write(tmp_path / "r.jsonl", [ROW | {"strength": 3.0, "shown_order": [2.0, 0, 1], "seconds": 4}])
    [row] = read_rows(path, COMPARISON)
    assert (row["strength"], row["shown_order"], row["seconds"]) == (3, [2, 0, 1], 4.0)
    assert [type(row["strength"]), type(row["seconds"])] == [int, float]


def test_tables_are_written_as_they_are_or_not_at_all(tmp_path: Path) -> None:
    for changes in ({"policies": "sft"}, {"ranking": [1.33, 1.67, 2]}, {"strength": 2.5}, {"prompt": b"p"}):
        with pytest.raises(DataError, match="wrong type"):
            write_table(tmp_path / "t.parquet", COMPARISON, [ROW | changes])
    assert not (tmp_path / "t.parquet").exists()
    write_table(tmp_path / "t.parquet", COMPARISON, [ROW | {"shown_order": (2, 0, 1), "seconds": 1}])
    assert read_table(tmp_path / "t.parquet", COMPARISON)[0]["shown_order"] == [2, 0, 1]


@pytest.mark.parametrize(
    ("ranking", "dense"),
    [
        ([1.33, 1.67, 3], [1, 2, 3]),  # means of several people
        ([1.5, 1.5, 3.0], [1, 1, 2]),  # halves
        ([1, 2, 2, 4], [1, 2, 2, 3]),  # competition ranks
        ([1, 3, 3, 3], [1, 2, 2, 2]),
        ([0, 2, 1], [1, 3, 2]),  # counted from 0
        ([2, 2, 2], [1, 1, 1]),
        ([3.0, 1.0, 2.0], [3, 1, 2]),
        ([1, None, 3.5], [1, None, 2]),
        ([1.0000001, 1.0000002], [1, 2]),
    ],
)
def test_rankings_of_any_numbers_keep_their_order(ranking: list[Any], dense: list[Any]) -> None:
    assert dense_ranks(ranking) == dense


@pytest.mark.parametrize("ranking", [["1", "2"], [1, "2"], [True, 2], [float("nan"), 1], [[1], [2]]])
def test_rankings_of_something_else_are_refused(ranking: list[Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no number"):
        dense_ranks(ranking)
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(ROW | {"completions": ["a", "b"], "ranking": ranking}) + "\n")
    with pytest.raises(DataError, match=r"row 1: column 'ranking': .* is no list<item: int64>; write"):
        read_rows(path, COMPARISON)


@pytest.mark.skipif(not CASES.exists(), reason=f"no cases at {CASES}")
@pytest.mark.parametrize("name", ["mean-ranks", "ranks-half", "ranks-skip"])
def test_no_preference_is_lost_in_ranks_that_are_not_dense(name: str, tmp_path: Path) -> None:
    """Files as people have them, through the pipeline's source and through the import of labels."""
    case = CASES / f"{name}.comparisons.jsonl"
    given = [json.loads(line)["ranking"] for line in case.read_text().splitlines()]
    shutil.copyfile(CASES / "base.demonstrations.jsonl", tmp_path / "demonstrations.jsonl")
    shutil.copyfile(case, tmp_path / "comparisons.jsonl")
    raw = files(tmp_path)
    [note] = raw.notes
    assert f"{given[0]} in row" in note
    assert "the smallest number is best" in note
    read = [row["ranking"] for row in raw.tables["comparisons"]]
    notes: list[str] = []
    imported = [label.answer["ranking"] for label in read_labels(case, notes=notes)]
    assert len(notes) == 1
    assert read == imported
    for before, after in zip(given, read, strict=True):
        assert set(after) == set(range(1, max(after) + 1))
        for i, j in combinations(range(len(before)), 2):
            assert (before[i] > before[j]) == (after[i] > after[j])
            assert (before[i] == before[j]) == (after[i] == after[j])


def test_dense_rankings_are_left_alone_and_not_mentioned(tmp_path: Path) -> None:
    notes: list[str] = []
    path = write(tmp_path / "r.jsonl", [ROW, ROW | {"ranking": [2.0, 1.0, 1.0]}])
    assert [row["ranking"] for row in read_rows(path, COMPARISON, notes)] == [[1, 2, 3], [2, 1, 1]]
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
        read_rows(tmp_path / name, COMPARISON)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_with_the_name_of_a_file_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_rows(tmp_path / "rows.jsonl", COMPARISON)


def test_a_rank_may_be_a_number_beyond_all_floats():
    """Only the order counts, and whole numbers of any length have one."""
    assert dense_ranks([10**400, 1, 10**400 + 1]) == [2, 1, 3]
