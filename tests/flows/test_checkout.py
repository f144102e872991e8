"""What no run can start in is refused in one line; what only looks odd runs."""

from __future__ import annotations

import errno
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from flow_repository import changed
from flow_results import git

import flows.pipeline
import flows.run
from flows.workspace import bring, snapshot
from rlhf.settings import load_settings
from tasks.runtime.errors import StageError
from tasks.runtime.places import git_commit, state_dir

CONFLICT = "<<<<<<< HEAD\nseed: 1\n=======\nseed: 2\n>>>>>>> other\n"


@pytest.fixture
def refused(
    small_repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Give the command of a run; returns its one line."""
    monkeypatch.setattr(flows.pipeline, "rlhf", lambda *_, **__: pytest.fail("the flow was started"))

    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            flows.run.main(["--name", "refused", *arguments])
        out, err = capsys.readouterr()
        assert (ended.value.code, out, err.count("\n")) == (1, "", 1)
        assert not Path(".runs").exists()
        return err.removeprefix("error: ").strip()

    return refused


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml", "dvc.lock"])
def test_a_conflict_of_a_merge_is_named_with_its_file_and_line(refused: Any, name: str) -> None:
    with Path(name).open("a") as handle:
        handle.write(CONFLICT)
    line = Path(name).read_text().splitlines().index("<<<<<<< HEAD") + 1
    said = refused()
    assert said.startswith(f"{name}, line {line}: a merge left its conflict here (<<<<<<<); ")
    assert f"git checkout --ours {name}" in said
    assert ("delete the file" in said) == (name == "dvc.lock")


@pytest.mark.parametrize(("name", "text"), [("dvc.lock", "stages:\n  - ["), ("dvc.yaml", "- a\n- b\n")])
def test_a_file_of_dvc_that_is_cut_short_is_named(refused: Any, name: str, text: str) -> None:
    Path(name).write_text(text)
    assert refused().startswith(f"{name}: ")


def test_an_archive_without_its_repository_is_refused(refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(".git")
    assert "is in no git repository" in refused()
    git("init", "--quiet")
    assert "no commit yet" in refused()
    shutil.rmtree(".git")

    inside = Path("outer/inside")
    shutil.copytree(".", inside, ignore=shutil.ignore_patterns("outer"))
    git("init", "--quiet", "outer")
    git("-C", "outer", "commit", "--quiet", "--allow-empty", "--message", "of another project")
    monkeypatch.chdir(inside)
    monkeypatch.delenv("RLHF_STATE")
    assert "is inside another git repository" in refused()
    assert state_dir() == Path.cwd() / ".state"
    assert git_commit() == ""


def test_a_folder_that_cannot_be_written_is_named(refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(dir: Path) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", read_only)
        assert refused().startswith(f"{Path.cwd()} cannot be written: Read-only file system; let this user")


def test_a_full_disk_is_named_before_anything_starts(refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    state = state_dir()
    state.mkdir()
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: Full() if dir == state else io.BytesIO())
    assert refused().startswith(f"{state}: the disk is full: ")


def test_a_run_in_prefect_says_the_same_and_leaves_nothing_running(run: Any) -> None:
    Path("dvc.lock").write_text(CONFLICT)
    state, tasks, _ = run()
    assert state.is_failed()
    assert str(state.message).startswith("dvc.lock, line 1: a merge left its conflict here")
    assert tasks == {}


def test_a_shallow_clone_with_an_odd_path_and_no_branch_runs_and_shares_a_cache(
    run: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clones on one DVC cache: the second takes from it what the first has made."""
    first, folder = Path.cwd(), tmp_path_factory.mktemp("clones")
    cache = f"[cache]\n    dir = {folder / 'ein Vorrat 山 100 %'}\n"
    Path(".dvc/config.local").write_text(cache)
    assert run(settings=changed(5))[0].is_completed()
    clone = folder / "ein Büro 山 100 %"
    git("clone", "--quiet", "--depth", "1", first.as_uri(), str(clone))
    monkeypatch.chdir(clone)
    git("checkout", "--quiet", "--detach")
    Path(".dvc/config.local").write_text(cache)
    before = snapshot()
    state, tasks, _ = run(settings=changed(5))
    assert state.is_completed(), state.message
    assert {task_run.state_name for task_run in tasks.values()} == {"Restored"}
    assert bring(Path(state.result()), before) == ["seed: 17 -> 5"]
    assert Path("data/prepared").read_text() == "prepare\n"


def test_a_run_that_ends_early_in_a_fresh_clone_brings_what_it_has(
    run: Any, services: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flows.run.main(["--set", "seed=5", "--until", "ingest"])
    printed = capsys.readouterr().out
    assert printed.endswith("partial: ended after ingest, as it was asked to; without results: prepare\n")
    assert Path("data/raw").read_text() == "ingest\n"
    assert load_settings().seed == 5
    assert not Path("data/prepared").exists()


def test_an_output_that_cannot_be_put_into_the_checkout_is_named(
    run: Any,
) -> None:
    """DVC goes on where it could not write a file."""
    before = snapshot()
    state, _, _ = run()
    for path in Path(".dvc/cache/files").rglob("*"):
        if path.is_file() and path.read_text() == "prepare\n":
            path.unlink()
    with pytest.raises(StageError, match=r"data/prepared could not be put into the checkout"):
        bring(Path(state.result()), before)
