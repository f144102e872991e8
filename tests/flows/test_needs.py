"""What a recipe needs and the machine or the parameters lack: all of it in one line, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Workspace

from flows.needs import check_needs
from flows.smoke import smoke
from rlhf.data.errors import DataError
from rlhf.settings import Settings


def write_needs(text: str) -> None:
    Path("recipes/mine").mkdir()
    Path("recipes/mine/needs.yaml").write_text(text)


def test_all_that_is_missing_is_said_in_one_line(workspace: Workspace) -> None:
    write_needs('{disk_gb: 1000000000, set: {ingest.path: "the folder of X", seed: "a seed"}}')
    with pytest.raises(DataError) as caught:
        check_needs("mine", Settings())
    line = str(caught.value)
    assert "\n" not in line
    assert "it needs 1e+09 GB of disk, " in line
    assert "ingest.path is not set: the folder of X" in line
    assert "seed" not in line  # it is set
    assert "make run RECIPE=mine SMOKE=1" in line


def test_a_gpu_that_is_not_there_is_said(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    write_needs("gpu_memory_gb: 40")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DataError, match="it needs a GPU with 40 GB of memory and there is none"):
        check_needs("mine", Settings())


def test_licences_are_told_and_nothing_is_needed_where_nothing_is_written(workspace: Workspace) -> None:
    assert check_needs("chat", Settings()) == []
    write_needs("licences: [{what: the model M, licence: MIT, url: 'https://example.org'}]")
    assert check_needs("mine", Settings()) == ["uses the model M, MIT (https://example.org)"]


def test_a_recipe_without_a_smoke_test_is_one_line(workspace: Workspace) -> None:
    with pytest.raises(DataError, match=r"no recipes/mine/smoke/params\.yaml"):
        smoke("mine")
