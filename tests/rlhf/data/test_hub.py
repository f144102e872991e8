"""A data set on the Hub: fetched at a commit, without its code, and read again without a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.data.errors import DataError
from rlhf.data.hub import local_path
from rlhf.settings import Ingest
from tasks.ingest import load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set as the Hub has them: shards of two splits, a card, a script."""
    folder = tmp_path / "served"
    (folder / "data").mkdir(parents=True)
    for number, split in enumerate(("train_prefs", "train_prefs", "test_prefs")):
        name = f"{split}-{number % 2:05d}-of-{2 if split.startswith('train') else 1:05d}.parquet"
        rows = [{"prompt": f"{split} {number} {i}", "chosen": "a", "rejected": "b"} for i in range(3)]
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / name)
    (folder / "README.md").write_text("a card")
    (folder / "set.py").write_text("raise SystemExit('this code must not run')")
    return folder


def ingest(path: str, revision: str | None) -> Ingest:
    return Ingest(source="files", path=path, revision=revision)


def test_the_data_files_of_a_commit_are_read_with_their_splits(hub, folder: Path) -> None:
    commit = hub.add("datasets/some/set", folder)
    raw = load(ingest("some/set", commit), seed=1)
    rows = raw.tables["comparisons"]
    assert [row["split"] for row in rows] == ["test"] * 3 + ["train"] * 6
    assert [row["prompt"] for row in rows if row["split"] == "train"] == [
        f"train_prefs {shard} {i}" for shard in range(2) for i in range(3)
    ]
    assert {row["source"] for row in rows} == {"some/set"}
    assert hub.asked("set.py") == hub.asked("README.md") == []


def test_what_was_fetched_is_read_again_without_a_network(
    hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = hub.add("datasets/some/set", folder)
    before = load(ingest("some/set", commit), seed=1)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    after = load(ingest("some/set", commit), seed=1)
    assert after.tables == before.tables
    assert after.revision == before.revision
    assert hub.requests == []


def test_offline_a_data_set_that_is_not_whole_is_refused(
    hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = hub.add("datasets/some/set", folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE keeps from fetching it.*--repo-type dataset"):
        local_path("some/set", commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    place = Path(local_path("some/set", commit))
    (place / "data" / "test_prefs-00000-of-00001.parquet").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"some/set is not whole in .*hf download some/set"):
        local_path("some/set", commit)


def test_some_files_of_a_data_set(hub, folder: Path) -> None:
    commit = hub.add("datasets/some/set", folder)
    raw = load(ingest("some/set/data/train_prefs-*", commit), seed=1)
    assert len(raw.tables["comparisons"]) == 6
    assert hub.asked("test_prefs") == []
    with pytest.raises(DataError, match="none of its 3 data files fits 'data/validation"):
        load(ingest("some/set/data/validation-*", commit), seed=1)


def _only_script(folder: Path) -> None:
    for file in (folder / "data").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("change", "path", "revision", "said"),
    [
        (_only_script, "some/set", "", "some/set: only set.py, a script .* no code of a data set is run"),
        (None, "some/set", "main", "write the full commit, 40 digits"),
        (None, "some/set", "0" * 40, "has no commit 0{40}; take one from .*/datasets/some/set/commits/main"),
        (None, "some/other", "", "no such data set at .*; check ingest.path"),
        (None, "some/set", None, "no such file or folder; if it is a data set .*ingest.revision"),
        (None, "/some/folder/set", "", "it is no id of the Hub, and a path has no revision"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(
    hub,
    folder: Path,
    change: Callable[[Path], None] | None,
    path: str,
    revision: str | None,
    said: str,
) -> None:
    if change:
        change(folder)
    commit = hub.add("datasets/some/set", folder)
    with pytest.raises(DataError, match=said) as caught:
        load(ingest(path, commit if revision == "" else revision), seed=1)
    assert "\n" not in str(caught.value)


def test_a_gated_data_set_says_where_its_licence_is(hub, folder: Path) -> None:
    commit = hub.add("datasets/some/set", folder, gated=True)
    with pytest.raises(DataError, match=r"is gated: accept its licence at http.*/datasets/some/set with"):
        load(ingest("some/set", commit), seed=1)


def test_a_folder_here_has_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some" / "set").mkdir(parents=True)
    (tmp_path / "some" / "set" / "r.jsonl").write_text(
        json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"})
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"it is here, .* has no revision"):
        load(ingest("some/set", "0" * 40), seed=1)
    assert len(load(ingest("some/set", None), seed=1).tables["comparisons"]) == 1
