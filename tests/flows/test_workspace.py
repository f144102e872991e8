"""A run's name, its worktree, its parameters, and what of it comes back to the checkout."""

from __future__ import annotations

import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import yaml
from flow_repository import STEP, changed
from flow_results import git

from flows.params import parse_changes, plan, write_params
from flows.workspace import bring, enter, free_name, link_data, snapshot
from rlhf.settings import Settings, SettingsError, load_settings
from tasks.runtime import stage as context
from tasks.runtime.places import state_dir


def test_a_name_is_a_git_reference_and_used_once(small_repository: Path) -> None:
    assert free_name("a name: with / signs", "1234567890") == "a-name-with-signs"
    assert free_name("...", "1234567890") == "run"
    enter("taken", "1234567890", Settings())
    assert free_name("taken", "1234567890") == "taken"
    assert free_name("taken", "abcdefghij") == "taken-abcdefgh"


def test_a_result_does_not_overwrite_a_checkout_that_changed_meanwhile(run: Any) -> None:
    before = snapshot()
    state, _, _ = run(settings=changed(5))
    Path("data.txt").write_text("2")
    assert bring(Path(state.result()), before) is None
    assert load_settings().seed == Settings().seed
    assert not Path("data").exists()
    Path("data.txt").write_text("1")
    assert bring(Path(state.result()), before) == ["seed: 17 -> 5"]
    assert Path("params.yaml").read_text().startswith("# kept\n")
    assert "path: null" in Path("params.yaml").read_text()
    assert Path("data/raw").exists()


def test_a_worktree_shares_cache_and_checkpoints_and_links_the_users_data(
    small_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    Path("data/incoming").mkdir(parents=True)
    Path("data/incoming/prompts.jsonl").write_text("{}")
    with pytest.raises(SettingsError, match="needs data"):
        plan("files", None, {})
    Path("data/reward-model").mkdir()
    Path("data/reward-model/config.json").write_text("{}")
    settings = plan("files", None, {"ingest.path": "data/incoming", "ppo.reward_model": "given"})
    tree = enter("one", "id", settings)
    assert (tree / "data/reward-model/config.json").samefile("data/reward-model/config.json")
    assert (tree / "data/incoming/prompts.jsonl").samefile("data/incoming/prompts.jsonl")
    link_data(plan("files", None, {"ingest.path": "data/incoming/*.jsonl"}), tree / "other")
    assert (tree / "other/data/incoming/prompts.jsonl").samefile("data/incoming/prompts.jsonl")
    with Repo() as here, Repo(str(tree)) as there:
        assert (
            there.cache.local_cache_dir == here.cache.local_cache_dir == str(small_repository / ".dvc/cache")
        )

    (tree / "dvc.lock").write_text("{}")
    assert enter("one", "id", settings) == tree  # tried again: goes on where it was
    assert (tree / "dvc.lock").read_text() == "{}"
    monkeypatch.chdir(tree)
    monkeypatch.delenv("RLHF_STATE")
    folder = context.Stage("sft", settings, "key", "run").checkpoints
    assert folder == small_repository / "checkpoints/sft/key"
    assert state_dir() == small_repository / ".state"


def test_new_files_make_a_run_dirty_only_where_the_code_is(small_repository: Path) -> None:
    head = git("rev-parse", "HEAD").strip()
    for number, path in enumerate(("notes.txt", "mlflow.db", "dvc_plots/index.html", "data/human/ann.jsonl")):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("left over")
        with chdir(enter(f"tree-{number}", "id", changed(5))):
            assert Path(path).exists() or path.startswith("data/")
            assert context.git_commit() == head
    assert context.git_commit() == head
    Path("rlhf").mkdir()
    Path("rlhf/new.py").write_text("")
    with chdir(enter("new-code", "id", Settings())):
        assert context.git_commit() == f"{head}-dirty"
    assert context.git_commit() == f"{head}-dirty"
    shutil.rmtree("rlhf")
    Path("step.py").write_text(STEP + "# changed\n")
    assert context.git_commit() == f"{head}-dirty"


def test_data_becomes_a_path_and_a_hash(small_repository: Path) -> None:
    Path("demonstrations.jsonl").write_text("abc")
    ingest = plan("files", "demonstrations.jsonl", {}).ingest
    assert ingest.path == str(small_repository / "demonstrations.jsonl")
    assert ingest.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_set_changes_the_named_values_and_keeps_comments(small_repository: Path) -> None:
    changes = ["ppo.learning_rate=7.5e-3", "collect.groups.expert=0.55", "ppo.missing_eos=null"]
    lines = write_params(Path("params.yaml"), plan(None, None, parse_changes(changes)))
    assert f"ppo.learning_rate: {Settings().ppo.learning_rate} -> 0.0075" in lines
    assert len(lines) == 3
    written = yaml.safe_load(Path("params.yaml").read_text())
    assert written["ppo"]["learning_rate"] == 0.0075
    assert written["ppo"]["missing_eos"] is None
    assert written["collect"]["groups"]["expert"] == 0.55
    assert Path("params.yaml").read_text().startswith("# kept\n")
    assert write_params(Path("params.yaml"), load_settings()) == []


def test_values_are_yaml() -> None:
    assert parse_changes(["a.b=3", "c=null", "d=word", "e=x=y"]) == {
        "a.b": 3,
        "c": None,
        "d": "word",
        "e": "x=y",
    }
    with pytest.raises(SettingsError, match="not valid YAML"):
        parse_changes(["a=["])
