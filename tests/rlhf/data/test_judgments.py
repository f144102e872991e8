"""Judgments by people: every file type, every check, each judgment once."""

import csv
import json

import pytest

from rlhf.data.contracts import JUDGMENT, with_ids
from rlhf.data.errors import DataError
from rlhf.data.judgments import read_judgments
from rlhf.data.table import read_table, write_table

JUDGED = {"prompt": "p", "reference": "r", "output": "o", "policy": "ppo", "preferred": "output"}


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_judgments_come_from_every_type_of_file(tmp_path, suffix):
    rows = [
        JUDGED | {"judge_id": "ann", "shown_order": [1, 0]},
        JUDGED | {"judge_id": "ben", "preferred": "tie", "shown_order": [0, 1]},
        JUDGED | {"judge_id": "ann", "policy": "sft", "preferred": "reference", "shown_order": [0, 1]},
    ]
    path = tmp_path / f"judgments.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, rows)
    elif suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(row | {"shown_order": json.dumps(row["shown_order"])} for row in rows)
    else:
        write_table(path, JUDGMENT, with_ids(JUDGMENT, rows, "x"))
    read = read_judgments(tmp_path)
    assert [(row["judge_id"], row["policy"], row["preferred"]) for row in read] == [
        ("ann", "ppo", "output"),
        ("ben", "ppo", "tie"),
        ("ann", "sft", "reference"),
    ]
    assert read[0]["shown_order"] == [1, 0]
    assert {row["judge_kind"] for row in read} == {"human"}
    table = tmp_path / "table" / "judgments.parquet"
    write_table(table, JUDGMENT, read)
    assert read_table(table, JUDGMENT) == [dict.fromkeys(JUDGMENT.schema.names) | row for row in read]


def test_every_file_of_a_folder_is_read_and_a_judgment_counts_once(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [JUDGED | {"judge_id": "ann"}])
    write_jsonl(tmp_path / "b.jsonl", [JUDGED | {"judge_id": "ben"}])
    assert {row["judge_id"] for row in read_judgments(tmp_path)} == {"ann", "ben"}
    write_jsonl(tmp_path / "b.jsonl", [JUDGED | {"judge_id": "ann"}])
    with pytest.raises(
        DataError, match=r"b\.jsonl: row 1: ann judged this pair in .*a\.jsonl: row 1 already"
    ):
        read_judgments(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preferred": "left"}, "row 2: preferred is 'left'; it must be output, tie, reference"),
        ({"judge_kind": "model"}, "row 2: judge_kind is 'model'"),
        ({"shown_order": [1, 1]}, r"row 2: shown_order is \[1, 1\]"),
        ({"prompt": "p"}, "row 2: unnamed judged this pair in .*: row 1 already"),
        ({"output": None}, "row 2: column 'output' is empty"),
    ],
)
def test_unusable_human_judgments_are_one_line(tmp_path, change, message):
    write_jsonl(tmp_path / "judgments.jsonl", [JUDGED, JUDGED | {"prompt": "other"} | change])
    with pytest.raises(DataError, match=message):
        read_judgments(tmp_path)


def test_a_folder_without_tables_holds_no_judgments(tmp_path):
    (tmp_path / "README.md").write_text("no judgments")
    assert read_judgments(tmp_path) == read_judgments(tmp_path / "gone") == []
