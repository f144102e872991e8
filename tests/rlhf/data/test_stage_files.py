"""Files that stages write: whole or not at all, JSON without NaN."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rlhf.data import disk
from rlhf.data.contracts import PROMPT, with_ids
from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json, written_beside
from rlhf.data.table import read_table, write_table


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


# ---- disks that are full, closed or lose power ----


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may be longer, as on a full disk: the system says so to whatever library writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


NUMBERS = {"weight": torch.arange(40_000, dtype=torch.float32)}


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("x" * 100_000),
        lambda path: save_file(NUMBERS, path),
        lambda path: torch.save(NUMBERS, path),
        lambda path: write_table(
            path, PROMPT, with_ids(PROMPT, [{"prompt": os.urandom(50_000).hex(), "split": "train"}], "test")
        ),
    ],
    ids=["text", "safetensors", "torch", "parquet"],
)
def test_whatever_library_meets_the_end_of_the_disk_it_is_one_line_and_the_old_file_stays(
    tmp_path: Path, write
) -> None:
    write_json(tmp_path / "out", {"old": 1})

    def fill() -> None:
        with written_beside(tmp_path / "out") as beside:
            write(beside)

    with small_disk(10_000), pytest.raises(DataError) as told:
        fill()
    line = str(told.value)
    assert line.startswith(f"{tmp_path}/out cannot be written: ")
    assert "0.0 MB of it were written, " in line
    assert line.endswith(" are free); mend that, and run again")
    assert "\n" not in line
    assert read_json(tmp_path / "out") == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (
            errno.ENOSPC,
            r"out: the disk is full: 0\.2 MB of it were written, [\d.,]+ [GM]B are free; make room",
        ),
        (errno.EDQUOT, r"out: the disk is full: "),
        (
            errno.EROFS,
            r"out cannot be written: Read-only file system; let this user write there, and run again",
        ),
        (errno.EACCES, r"out cannot be written: Permission denied; let this user write there, and run again"),
        (errno.EIO, r"out cannot be written: Input/output error \(0\.2 MB of it were written, "),
    ],
)
def test_what_a_disk_refuses_is_told_with_its_folder(tmp_path: Path, number: int, line: str) -> None:
    def fail() -> None:
        with written_beside(tmp_path / "out") as beside:
            beside.mkdir()
            (beside / "weights").write_bytes(bytes(200_000))
            raise OSError(number, os.strerror(number))

    with pytest.raises(DataError, match=line):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_read_only_disk_refuses_to_remove_what_is_not_there_too(tmp_path: Path, monkeypatch) -> None:
    def refuse(*args, **more) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(DataError, match=r"out/a\.json cannot be written: Read-only file system"):
        write_json(tmp_path / "out" / "a.json", {})


def test_torch_loses_the_reason_and_the_disk_tells_it(tmp_path: Path, monkeypatch) -> None:
    def fail() -> None:
        with written_beside(tmp_path / "out") as beside:
            torch.save(NUMBERS, beside)

    monkeypatch.setattr(disk, "free_bytes", lambda path: 1000)
    with (
        small_disk(10_000),
        pytest.raises(DataError, match=r"out: the disk is full: 0\.0 MB of it were written"),
    ):
        fail()


def test_what_is_read_meanwhile_is_not_blamed_on_what_is_written(tmp_path: Path) -> None:
    def fail() -> None:
        with written_beside(tmp_path / "out"):
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "rows.csv"))

    with pytest.raises(PermissionError):
        fail()


def test_content_is_on_the_disk_before_its_name_and_the_name_after_it(tmp_path: Path, monkeypatch) -> None:
    events = []
    monkeypatch.setattr(disk, "_sync", lambda path: events.append(path.name.split(".")[-1]))
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("renamed"), real(*paths)))
    with written_beside(tmp_path / "in" / "out") as beside:
        beside.mkdir()
        (beside / "weights").touch()
    assert events == ["weights", "part", "renamed", "in"]


@pytest.mark.parametrize("content", ['{"a": ', '{"a": "\udcff"}'])
def test_a_damaged_file_says_which_and_how_it_comes_back(tmp_path: Path, content: str) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(DataError, match=r"evaluation\.json: damaged \(.*\); `dvc checkout` brings it back"):
        read_json(path)


def test_a_damaged_table_says_which_and_how_it_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "prompts.parquet"
    write_table(path, PROMPT, with_ids(PROMPT, [{"prompt": "a", "split": "train"}], "test"))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:200] + bytes(200) + whole[400:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"prompts\.parquet: damaged \(.*\); `dvc checkout` brings"):
            list(read_table(path, PROMPT))
