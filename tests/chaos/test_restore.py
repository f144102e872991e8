"""From an empty machine, the git remote, the DVC remote and the databases the team is back.

tests/pipeline/test_repro.py does the same on PostgreSQL and S3.
"""

# pytest finds fixtures by the names of arguments:
# ruff: noqa: F401, F811

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Workspace, dvc
from flow_results import git
from label_app import PASSWORD, answer, candidates, filled, person
from registered import empty_store, registry_in
from restored import follow

from flows.policies import named_policy
from flows.trace import trace
from flows.workspace import experiments
from labeling import people
from labeling.address import store_address
from labeling.projects import add_project
from labeling.store import Store
from tasks.graph import content_hash
from tasks.runtime.tracking import EXPERIMENT, start_parent_run

URI = "models:/rlhf-policy@champion"
OUTPUTS = {
    "ppo": ["models/ppo", "data/prepared"],
    "register": ["metrics/evaluation.json", "data/judgments", "runs/register.json"],
}


@pytest.fixture
def team(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Iterator[Path]:
    """A checkout with a champion, labels and a run, as a team has it; the folder."""
    import mlflow

    here = workspace.path = workspace.path.rename(workspace.path.with_name("rlhf-pipeline"))
    monkeypatch.chdir(here)
    monkeypatch.delenv("RLHF_STATE")
    state = here / ".state"
    state.mkdir()
    with registry_in(state, "mlartifacts", workspace, monkeypatch, empty_store) as register:
        gate = register()
        assert gate["aliases"] == {"challenger": 1, "champion": 1}
        stages = {name: {"cmd": "true", "outs": outs} for name, outs in OUTPUTS.items()}
        Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        Path("runs").mkdir(exist_ok=True)
        Path("runs/register.json").write_text('{"run_id": "of-register"}')
        for words in (["init", "-q", "."], ["add", "-A"], ["commit", "-qm", "start"]):
            git(*words)
        dvc("commit", "--force")
        dvc("exp", "save", "--force", "--name", "the-run")
        client = mlflow.MlflowClient()
        client.create_experiment(EXPERIMENT)
        parent = start_parent_run("the-run", client, "execution")
        for tag, value in {"dvc_experiment": "the-run", "dvc_commit": experiments()["the-run"]}.items():
            client.set_tag(parent, tag, value)
        version = client.get_model_version("rlhf-policy", "1")
        client.set_tag(version.run_id, "mlflow.parentRunId", parent)
        store = Store(store_address(state))
        with store.write() as tx:
            add_project(tx, "p", "test")
        answer(store, person(store, "ann"), filled(store, "rank", candidates(1)), ranks=[2, 1])
        store.close()
        (state / "prefect").mkdir()
        with sqlite3.connect(state / "prefect/prefect.db") as connection:  # making a true one takes long
            connection.execute("CREATE TABLE flow_run AS SELECT 'the-run' AS name")
        yield here


def test_the_team_is_back_with_champion_labels_and_history(
    team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git_remote, backup = tmp_path / "git", tmp_path / "backup"
    subprocess.run(["git", "init", "-q", "--bare", str(git_remote)], check=True)
    git("remote", "add", "origin", str(git_remote))
    dvc("remote", "add", "--default", "store", str(tmp_path / "dvc"))
    git("add", "-A")
    git("commit", "-qm", "where the data are")
    follow("back-up-sqlite", team, BACKUP=str(backup))
    before, policy, labels = trace(URI), content_hash("models/ppo"), rows(team)
    assert before["experiment"]["name"] == "the-run"
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(team)  # the machine is gone
    follow("restore-sqlite", tmp_path, GIT_REMOTE=str(git_remote), BACKUP=str(backup))
    monkeypatch.chdir(team)
    assert trace(URI) == before
    with named_policy(URI) as champion:
        assert content_hash(champion.folder) == content_hash("models/ppo") == policy
    assert set(experiments()) == {"the-run"}
    assert Path("data/prepared/prompts.parquet").is_file()
    assert rows(team) == labels
    store = Store(store_address(), create=False)
    with store.read() as tx:
        assert people.check_password(tx, "ann", PASSWORD)
    store.close()


def rows(team: Path) -> dict[str, list[Any]]:
    """All rows of the label store, and the names of the flow runs."""
    found = {}
    for file in (".state/labels.db", ".state/prefect/prefect.db"):
        with sqlite3.connect(team / file) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            found |= {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}
    assert len(found["labels"]) == len(found["flow_run"]) == 1
    return found
