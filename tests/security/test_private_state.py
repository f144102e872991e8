"""State is for its owner alone, whatever the umask, made or found, also in a folder of others."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from labeling.projects import add_project
from labeling.store import Store
from rlhf.data.private import private_file, private_folder
from tasks.runtime import places
from tasks.runtime.locks import alone
from tasks.runtime.places import state_folder


@pytest.fixture(autouse=True)
def generous() -> Iterator[None]:
    """The umask of a machine on which everybody may do everything."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_label_store_and_what_sqlite_puts_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new/labels.db"
    store = Store(f"sqlite:///{path}")
    with store.write() as tx:
        add_project(tx, "p", "test")
        assert {file.name for file in path.parent.iterdir()} == {
            "labels.db",
            "labels.db-wal",
            "labels.db-shm",
        }
        assert {mode(file) for file in path.parent.iterdir()} == {0o600}
    assert mode(path.parent) == 0o700
    store.close()


def test_a_store_that_was_open_to_all_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    Store(f"sqlite:///{path}").close()
    path.chmod(0o666)
    wal = tmp_path / "labels.db-wal"
    wal.touch()
    assert mode(wal) == 0o666
    Store(f"sqlite:///{path}", create=False).close()
    assert mode(path) == 0o600
    assert not wal.exists() or mode(wal) == 0o600


def test_a_store_that_is_missing_is_not_made_by_who_only_reads(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no label store"):
        Store(f"sqlite:///{tmp_path / 'labels.db'}", create=False)
    assert list(tmp_path.iterdir()) == []


def test_the_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLHF_STATE", raising=False)
    monkeypatch.setattr(places, "main_checkout", lambda: tmp_path)
    (tmp_path / ".state/logs").mkdir(parents=True)
    assert mode(tmp_path / ".state/logs") == 0o777
    assert mode(state_folder("logs")) == 0o700
    assert mode(tmp_path / ".state") == 0o700
    with alone("x"):
        assert mode(tmp_path / ".state/locks") == 0o700


def test_a_folder_of_others_stays_as_it_is_and_what_is_ours_in_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLHF_STATE", str(tmp_path / "shared"))
    (tmp_path / "shared").mkdir()
    assert mode(state_folder("runs")) == 0o700
    assert mode(tmp_path / "shared") == 0o777
    monkeypatch.setenv("RLHF_STATE", str(tmp_path / "new"))
    assert mode(state_folder()) == 0o700


def test_an_empty_private_file_is_a_database_and_a_full_one_is_kept(tmp_path: Path) -> None:
    path = private_file(tmp_path / "a.db")
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    before = path.read_bytes()
    assert private_file(path).read_bytes() == before
    assert mode(path) == 0o600
    assert mode(private_folder(tmp_path / "a/b")) == 0o700
