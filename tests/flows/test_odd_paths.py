"""A checkout may lie in any folder: one with spaces, commas, quotes, or letters that are not ASCII."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import dvc

from flows.workspace import open_worktree, snapshot

ODD = "two words, Anna's #1, Übung 試験"


def test_a_worktree_shares_the_cache_whatever_its_path(
    small_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    dvc("config", "--local", "cache.type", "hardlink,copy")
    moved = small_repository.rename(small_repository.with_name(ODD))
    monkeypatch.chdir(moved)
    open_worktree(moved / ".runs/one", "HEAD", snapshot())
    with Repo(str(moved / ".runs/one")) as there:
        assert there.cache.local_cache_dir == str(moved / ".dvc/cache")
        assert there.config["cache"]["type"] == ["hardlink", "copy"]  # what the checkout has stays
