"""What a path means: files, folders, patterns, shards, saved data sets; and what of it says a split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.errors import DataError
from rlhf.data.files_source import files
from rlhf.data.formats.parts import Part, parts
from rlhf.data.formats.split_names import split_named
from rlhf.data.layouts.layout import Notes
from rlhf.data.reading import Source, read


def pair(prompt: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": "Yes.", "rejected": "No."} | more


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def shown(told: list[Part], root: Path) -> list[tuple[str, list[str], str | None]]:
    return [
        (part.name, [file.relative_to(root).as_posix() for file in part.files], part.split) for part in told
    ]


def splits(path: Path, notes: Notes | None = None) -> dict[str, str | None]:
    """Prompt -> split, of all rows that a path names."""
    raw = files([Source(str(path))], "")
    return {row["prompt"]: row["split"] for row in raw.tables["comparisons"]}


def test_shards_of_one_table_are_one_part_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = [
        "train-00001-of-00002",
        "train-00000-of-00002",
        "part_10",
        "part_9",
        "more/0001",
        "more/0000",
        "gpt4",
    ]
    for name in names:
        write(tmp_path / f"{name}.jsonl", pair(name))
    assert shown(parts(tmp_path), tmp_path) == [
        ("gpt4", ["gpt4.jsonl"], None),
        ("more", ["more/0000.jsonl", "more/0001.jsonl"], None),
        ("part", ["part_9.jsonl", "part_10.jsonl"], None),
        ("train", ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"], "train"),
    ]


def test_a_missing_shard_is_refused_also_where_a_pattern_leaves_it_out(tmp_path: Path) -> None:
    first = write(tmp_path / "d-00000-of-00003.jsonl", pair("a"))
    write(tmp_path / "d-00002-of-00003.jsonl", pair("b"))
    with pytest.raises(DataError, match=r"d-00000-of-00003\.jsonl: shard 1 of 3 is missing.*bring the file"):
        parts(tmp_path)
    write(tmp_path / "d-00001-of-00003.jsonl", pair("c"))
    assert len(parts(tmp_path)[0].files) == 3
    with pytest.raises(DataError, match=r"shard 1 of 3 is missing .*; name the folder, or d-\*"):
        parts(tmp_path / "d-0000[02]-*")
    said: list[str] = []
    [alone] = parts(first, said.append)
    assert (alone.name, alone.files) == ("d", (first,))
    assert said == [f"{first}: shard 0 of 3 (counted from 0); the others are not read"]
    train = write(tmp_path / "train-00001-of-00009.jsonl", pair("t"))
    assert [part.split for part in parts(train)] == ["train"]
    train.unlink()
    write(tmp_path / "d-00003-of-00004.jsonl", pair("d"))
    with pytest.raises(DataError, match="a shard of 4, and others of d are of 3"):
        parts(tmp_path)


def test_a_pattern_takes_what_fits(tmp_path: Path) -> None:
    for name in ("a/x.jsonl", "a/y.csv", "b/x.jsonl"):
        write(tmp_path / name, pair(name))
    assert [part.files[0].name for part in parts(f"{tmp_path}/*/*.jsonl")] == ["x.jsonl", "x.jsonl"]
    assert len(parts(f"{tmp_path}/**/x.jsonl")) == 2
    with pytest.raises(DataError, match="no file fits this pattern"):
        parts(f"{tmp_path}/*.parquet")
    with pytest.raises(DataError, match="no such file or folder"):
        parts(tmp_path / "c")
    strange = write(tmp_path / "s" / "[1].jsonl", pair("p"))  # a name that reads like a pattern
    assert parts(strange)[0].files == (strange,)


def test_what_lies_beside_data_is_no_data_and_other_types_are_named(tmp_path: Path) -> None:
    write(tmp_path / "d.jsonl", pair("a"))
    for name in ("README.md", "LICENSE", "SOURCE.md", "manifest.json", "dataset_info.json", ".hidden.jsonl"):
        (tmp_path / name).write_text("about")
    write(tmp_path / ".git" / "x.jsonl", pair("b"))
    said: list[str] = []
    assert len(parts(tmp_path, said.append)) == 1
    assert said == []
    for name in ("load.py", "notes.txt", "figure.png", "sheet.xlsx"):
        (tmp_path / name).write_text("other")
    parts(tmp_path, said.append)
    assert said == [f"{tmp_path}: not read, because of their type: figure.png, load.py, notes.txt and 1 more"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("d.tar.gz", "damaged, cut off or locked"),
        ("d.zip", "damaged, cut off or locked"),
        ("d.xlsx", "a spreadsheet; save it as CSV UTF-8"),
        ("d.jsonl.bz2", r"unpack it, or pack it as \.gz or \.zst"),
        ("d.pkl", "can hold code and is not opened"),
        ("d.html", "unknown file type '.html'; use .jsonl"),
        ("pairs", "its name has no file type; use .jsonl"),
    ],
)
def test_a_file_of_another_type_says_what_to_do(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=said):
        parts(tmp_path / name)


def test_one_table_in_two_types_is_refused(tmp_path: Path) -> None:
    for name in ("d.jsonl", "d.jsonl.gz"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"both d\.jsonl and d\.jsonl\.gz; keep one"):
        parts(tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("train_sft", "train"),
        ("test-prefs", "test"),
        ("valid1", "validation"),
        ("DEV", "validation"),
        ("eval", "test"),
        ("judge", "judge"),
        ("training_and_test", None),
        ("contest", None),
        ("later", None),
    ],
)
def test_names_of_splits(name: str, split: str | None) -> None:
    assert split_named(name) == split


def test_names_of_files_and_folders_say_splits(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00001.jsonl", pair("a"), pair("a2", split="val"))
    write(tmp_path / "data" / "test_prefs.jsonl", pair("b"))
    write(tmp_path / "dev" / "0.jsonl", pair("c"))
    assert splits(tmp_path) == {"a": "train", "a2": "validation", "b": "test", "c": "validation"}
    notes = Notes()
    list(read(Source(str(tmp_path)), notes))
    assert [line.rsplit("/", 1)[1] for line in notes.lines() if "split" in line] == [
        "test_prefs.jsonl: split test, by the name 'test_prefs'",
        "train-00000-of-00001.jsonl: split train, by the name 'train'",
        "train-00000-of-00001.jsonl: split 'val' is read as validation",
        "0.jsonl: split validation, by the name 'dev'",
    ]


def test_the_folder_in_which_a_person_keeps_data_says_no_split(tmp_path: Path) -> None:
    write(tmp_path / "test" / "d.jsonl", pair("a"))
    assert splits(tmp_path / "test") == splits(tmp_path / "test" / "d.jsonl") == {"a": None}


def test_one_split_alone_says_nothing_about_what_is_held_out(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", pair("a"))
    raw = files([Source(str(tmp_path))], "")
    assert [row["split"] for row in raw.tables["comparisons"]] == [None]
    assert any("all files are called train" in note for note in raw.notes)
    assert not any("by the name" in note for note in raw.notes)
    write(tmp_path / "test.jsonl", pair("b"))
    assert splits(tmp_path) == {"a": "train", "b": "test"}
    raw = files([Source(str(tmp_path / "train.jsonl")), Source(str(tmp_path / "test.jsonl"))], "")
    assert [row["split"] for row in raw.tables["comparisons"]] == ["train", "test"]


def test_a_split_in_a_column_is_read_by_other_names_and_refused_where_it_is_none(tmp_path: Path) -> None:
    path = write(
        tmp_path / "d.jsonl", pair("a", split="train_sft"), pair("b", split=""), pair("c", split="EVAL")
    )
    assert splits(path) == {"a": "train", "b": None, "c": "test"}
    write(path, pair("a"), pair("b", split="later"))
    with pytest.raises(
        DataError, match=r"row 2: column 'split': 'later' is no split; write one of train, .*"
    ):
        splits(path)


def test_saved_data_sets_keep_their_splits_and_the_order_of_their_files(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = [pair(f"a{i}") for i in range(7)]
    train = Dataset.from_list(rows)
    DatasetDict(train=train, test=Dataset.from_list([pair("b")])).save_to_disk(
        tmp_path / "both", num_shards={"train": 3, "test": 1}
    )
    assert splits(tmp_path / "both") == {f"a{i}": "train" for i in range(7)} | {"b": "test"}
    sources = {row["source"] for row in files([Source(str(tmp_path / "both"))], "").tables["comparisons"]}
    assert sources == {"train", "test"}
    some = train.select([4, 2])
    some.save_to_disk(tmp_path / "one")
    assert splits(tmp_path / "one") == {"a4": None, "a2": None}
    next((tmp_path / "both" / "train").glob("data-00001-*.arrow")).unlink()
    with pytest.raises(DataError, match=r"both/train: data-00001-of-00003\.arrow is missing"):
        splits(tmp_path / "both")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_what_changes_in_shard_7_is_one_line_with_the_shard_and_the_row(suffix: str, tmp_path: Path) -> None:
    def shards(odd: str) -> None:
        for shard in range(9):
            cells = ["p", odd if shard == 7 else "2"]
            text = "prompt,chosen,rejected,margin\n" + ",".join([cells[0], "a", "b", cells[1]]) + "\n"
            if suffix == "jsonl":
                margin = odd if shard == 7 else 2
                text = json.dumps({"prompt": "p", "chosen": "a", "rejected": "b", "margin": margin}) + "\n"
            (tmp_path / f"d-{shard:05d}-of-00009.{suffix}").write_text(text)

    shards("much")
    with pytest.raises(DataError, match=rf"d-00007-of-00009\.{suffix}: row 1: .*margin.*'much'") as caught:
        splits(tmp_path)
    assert "\n" not in str(caught.value)


def test_shards_with_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d_1.csv").write_text("prompt,chosen,rejected\np,a,b\n")
    (tmp_path / "d_2.csv").write_text("prompt,chosen,rejected,margin\np,a,b,1\n")
    with pytest.raises(DataError, match=r"d_2\.csv: has the column 'margin', which d_1\.csv, a shard"):
        splits(tmp_path)
    (tmp_path / "d_2.csv").write_text("prompt,chosen\np,a\n")
    with pytest.raises(DataError, match=r"d_2\.csv: lacks the column 'rejected', which d_1\.csv"):
        splits(tmp_path)


def test_a_column_that_comes_late_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", *[pair(str(i)) for i in range(300)], pair("x", colour="red"))
    notes = Notes()
    list(read(Source(str(path)), notes))
    assert f"{path}: row 301: column 'colour' not read as pairs" in notes.lines()
    write(
        path, *[pair(str(i)) for i in range(300)], *[pair(str(i), **{f"key {i}": 1}) for i in range(300, 400)]
    )
    notes = Notes()
    list(read(Source(str(path)), notes))
    assert sum("not read as pairs" in line for line in notes.lines()) == 10
    assert f"{path}: more than 10 such columns come later" in notes.lines()
