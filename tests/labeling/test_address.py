"""Where the label store is, under its names of today and for one version under those of before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from labeling import address
from labeling.address import store_address


@pytest.fixture(autouse=True)
def unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store is named in the environment, and nothing was said about old names yet."""
    for name in ("LABELING_DB", "FEEDBACK_DB", "RLHF_STATE"):
        monkeypatch.delenv(name, raising=False)
    address._say_that_the_variable_is_old.cache_clear()


def test_the_store_is_the_database_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABELING_DB", "postgresql://host/new")
    assert store_address(tmp_path) == "postgresql://host/new"


def test_the_old_variable_is_read_where_the_new_one_is_not_set_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEEDBACK_DB", "postgresql://host/old")
    assert [store_address() for _ in range(2)] == ["postgresql://host/old"] * 2
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "FEEDBACK_DB is called LABELING_DB now; the next version reads the new name only"
    ]
    assert said.out == ""  # standard output may be read by a program
    monkeypatch.setenv("LABELING_DB", "postgresql://host/new")
    assert store_address() == "postgresql://host/new"
    assert capsys.readouterr().err == ""


def test_the_store_lies_in_the_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert store_address() == f"sqlite:///{tmp_path / '.state' / 'labels.db'}"
    monkeypatch.setenv("RLHF_STATE", str(tmp_path / "elsewhere"))
    assert store_address() == f"sqlite:///{tmp_path / 'elsewhere' / 'labels.db'}"
    assert store_address(tmp_path / "handed over") == f"sqlite:///{tmp_path / 'handed over' / 'labels.db'}"


def test_a_store_that_lies_there_under_its_old_name_stays_the_store(tmp_path: Path) -> None:
    (tmp_path / "feedback.db").touch()
    assert store_address(tmp_path) == f"sqlite:///{tmp_path / 'feedback.db'}"
    (tmp_path / "labels.db").touch()
    assert store_address(tmp_path) == f"sqlite:///{tmp_path / 'labels.db'}"


def test_the_old_command_says_its_new_name_and_does_the_same(tmp_path: Path) -> None:
    def run(package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        store = f"sqlite:///{tmp_path / 'labels.db'}"
        command = [sys.executable, "-m", package, "--db", store, *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    refused, as_before = run("labeling", "status"), run("feedback", "status")
    assert refused.returncode == as_before.returncode == 1
    notice, *rest = as_before.stderr.splitlines(keepends=True)
    assert "`python -m labeling`" in notice
    assert "".join(rest) == refused.stderr
    assert run("feedback", "init").returncode == 0
    assert run("feedback", "project", "add", "p").returncode == 0
    assert run("labeling", "status").stdout == run("feedback", "status").stdout != ""
