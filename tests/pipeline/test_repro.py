"""The small pipeline on PostgreSQL and S3: nothing runs twice, and kills change no byte.

Where there is no PostgreSQL, `dvc repro` runs it on local files, and the tests of the stores are skipped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import psycopg
import pytest
import yaml
from conftest import Workspace, dvc
from dvc.repo import Repo
from label_app import answer, candidates, filled, person
from restored import follow
from stores import BUCKET, by_two_workers, servers

from benchmarks.postgres import Postgres, binaries, temporary_postgres
from flows.services.catalogue import with_driver
from flows.workspace import bring, experiments, snapshot
from labeling.projects import add_project
from labeling.store import Store
from rlhf.settings import load_settings
from tasks.graph import content_hash

pytestmark = pytest.mark.slow
IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.org")
VARYING = ("runs/", "reports/")  # MLflow run ids; pages carry times and names of runs
TRAININGS = {"base": "pretrained", "sft": "sft", "reward": "reward", "ppo": "ppo"}


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """The pipeline, run once by `dvc repro`: the working directory of this file's tests, in their order."""
    path = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(project, path)
    mlflow.set_tracking_uri(None)  # a test before in this process may have named its own store
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("RLHF_STATE", str(path.parent / "state"))
        repository = Workspace(path)
        repository.set({"base.steps": 40, "sft.epochs": 2, "reward.epochs": 4, "ppo.updates": 6})
        for words in (["init", "-q", "."], ["add", "-A"]):
            subprocess.run(["git", *words], check=True)
        programs = binaries()
        if programs is None:
            assert sorted(ran(dvc("repro"))) == sorted(stages())
            yield repository
            return
        subprocess.run(["git", *IDENTITY, "commit", "-qm", "start"], check=True)
        patch.setenv("PYTHONPATH", str(path))
        with temporary_postgres(programs, durable=False) as server, servers(server, patch):
            settings = load_settings().model_dump(by_alias=True, mode="json")
            before = snapshot()
            other = settings | {"ppo": settings["ppo"] | {"kl_coef": 0.2}}
            repository.taken = by_two_workers(
                {"whole": {"settings": settings}, "data": {"settings": other, "until": "ingest"}}
            )
            for state, said in repository.taken.values():
                assert state.is_completed(), f"{state.message}\n{said[-5000:]}"
            assert bring(Path(".runs/whole"), before) == []  # the checkout is as it was
            repository.server = server
            yield repository


@pytest.fixture
def stores(finished: Workspace) -> Postgres:
    """The PostgreSQL server that the pipeline ran on."""
    if not hasattr(finished, "server"):
        pytest.skip("no PostgreSQL server here (looked beside `postgres` on PATH and in /usr/lib/postgresql)")
    return finished.server


def test_two_workers_take_a_run_each_and_share_what_both_need(finished: Workspace, stores: Postgres) -> None:
    said = [text for _, text in finished.taken.values()]
    assert all(text.count("submitted to infrastructure") == 1 for text in said), said
    # Each execution of a stage has a run in MLflow. What the workers printed is no measure: the line of a
    # stage that starts was once in neither text, and why was not found.
    with psycopg.connect(stores.url("mlflow")) as connection:
        names = [name for (name,) in connection.execute("SELECT value FROM tags WHERE key = 'stage'")]
    assert {stage: names.count(stage) for stage in stages()} == dict.fromkeys(stages(), 1)


def test_runs_at_once_stand_side_by_side_in_dvc_with_their_parameters(
    finished: Workspace, stores: Postgres
) -> None:
    with Repo() as repo:
        [head] = [state for state in repo.experiments.show() if state.rev != "workspace"]
    shown = {run.revs[0].name: run.revs[0].data.params["params.yaml"]["data"] for run in head.experiments}
    assert {name: params["ppo"]["kl_coef"] for name, params in shown.items()} == {"whole": 0.05, "data": 0.2}


def test_rows_are_in_postgresql_and_artifacts_in_s3(stores: Postgres, tmp_path: Path) -> None:
    def rows(database: str, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(stores.url(database)) as connection:
            return connection.execute(query).fetchall()

    assert sorted(rows("prefect", "SELECT name, state_type FROM flow_run")) == [
        ("data", "COMPLETED"),
        ("whole", "COMPLETED"),
    ]
    assert len(rows("prefect", "SELECT 1 FROM task_run")) == len(stages()) + 1
    names = [name for (name,) in rows("mlflow", "SELECT name FROM runs WHERE status = 'FINISHED'")]
    assert {name.split()[0] for name in names} == {
        "whole",
        "data",
        *stages(),
    }  # stages bear the run's name too
    [(points,)] = rows("mlflow", "SELECT count(*) FROM metrics WHERE key = 'objective/kl'")
    assert points >= load_settings().ppo.updates

    version = mlflow.MlflowClient().get_model_version_by_alias("rlhf-policy", "challenger")
    run = mlflow.get_run(version.run_id)
    files = mlflow.MlflowClient().get_model_version_download_uri("rlhf-policy", version.version)
    assert run.info.artifact_uri.startswith(f"{BUCKET}/mlflow/")
    assert files.startswith(f"{BUCKET}/mlflow/")
    got = mlflow.artifacts.download_artifacts("models:/rlhf-policy@challenger", dst_path=str(tmp_path))
    assert content_hash(Path(got, "artifacts/ppo")) == content_hash("models/ppo")
    assert not Path(os.environ["RLHF_STATE"], "mlflow.db").exists()

    store = Store(os.environ["LABELING_DB"])
    with store.write() as tx:
        add_project(tx, "p", "test")
    _, label = answer(store, person(store, "ann"), filled(store, "rank", candidates(1)), ranks=[1, 2])
    store.close()
    assert rows("labels", "SELECT id FROM labels") == [(label,)]


def test_a_clone_with_an_empty_cache_gets_its_data_and_models_from_s3(
    stores: Postgres, tmp_path: Path
) -> None:
    dvc("remote", "add", "--default", "store", f"{BUCKET}/dvc")
    dvc("push")
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(["git", *IDENTITY, "commit", "-qm", "result"], check=True)
    subprocess.run(["git", "clone", "-q", ".", str(tmp_path / "clone")], check=True)
    here = Path.cwd()
    with contextlib.chdir(tmp_path / "clone"):
        dvc("pull")
        paths = [*hashes(), "metrics/evaluation.json"]
        assert "models/ppo" in paths
        assert all(content_hash(path) == content_hash(here / path) for path in paths)
    subprocess.run(["git", "reset", "-q", "HEAD~1"], check=True)


def test_the_team_is_back_from_git_dvc_and_dumps_of_the_databases(
    stores: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/production.md, on PostgreSQL and S3: another server, another path, an empty cache."""
    programs, git_remote = binaries(), tmp_path / "git"
    assert programs
    names = {"BACKUP": str(tmp_path), "GIT_REMOTE": str(git_remote)}
    registered = mlflow.MlflowClient().get_model_version_by_alias("rlhf-policy", "challenger")
    subprocess.run(["git", "init", "-q", "--bare", str(git_remote)], check=True)
    subprocess.run(["git", "remote", "add", "origin", str(git_remote)], check=True)
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(["git", *IDENTITY, "commit", "-qm", "result"], check=True)
    here, policy, history = Path.cwd(), content_hash("models/ppo"), history_of(stores)
    try:
        follow("back-up-postgresql", here, programs, PGHOST=stores.socket, PGUSER=stores.user, **names)
    finally:
        subprocess.run(["git", "reset", "-q", "HEAD~1"], check=True)
    with temporary_postgres(programs, durable=False) as other:
        follow("restore-postgresql", tmp_path, programs, PGHOST=other.socket, PGUSER=other.user, **names)
        assert history_of(other) == history
        with contextlib.chdir(tmp_path / "rlhf-pipeline"):
            assert {"whole", "data"} <= set(experiments())
            assert content_hash("models/ppo") == policy
        client = mlflow.MlflowClient(with_driver(other.url("mlflow"), "psycopg"))
        version = client.get_model_version_by_alias("rlhf-policy", "challenger")
        assert (str(version.version), version.tags) == (str(registered.version), registered.tags)
        files = client.get_model_version_download_uri("rlhf-policy", version.version)
        got = mlflow.artifacts.download_artifacts(files, dst_path=str(tmp_path / "files"))
        assert content_hash(Path(got, "artifacts/ppo")) == policy


def history_of(server: Postgres) -> dict[str, list[tuple[Any, ...]]]:
    """Runs and labels in the databases of a server."""
    queries = {
        "prefect": "SELECT id, name, state_type FROM flow_run ORDER BY id",
        "mlflow": "SELECT run_uuid, name, status FROM runs ORDER BY run_uuid",
        "labels": "SELECT id, item_id, user_id FROM labels ORDER BY id",
    }
    found = {}
    for name, query in queries.items():
        with psycopg.connect(server.url(name)) as connection:
            found[name] = connection.execute(query).fetchall()
    assert all(found.values())
    return found


def test_what_is_up_to_date_does_not_run(finished: Workspace) -> None:
    assert ran(dvc("repro")) == []


def test_deleted_outputs_are_restored_and_no_stage_runs(finished: Workspace) -> None:
    first = hashes()
    for path in first:
        subprocess.run(["rm", "-rf", path], check=True)
    assert ran(dvc("repro")) == []
    assert all(Path(path).exists() for path in first)
    assert hashes() == first


def test_a_changed_parameter_reruns_what_depends_on_it(finished: Workspace) -> None:
    first = hashes()
    finished.set({"ppo.kl_coef": 0.1})
    assert ran(dvc("repro")) == ["ppo", "evaluate", "register"]
    assert hashes() != first
    finished.set({"ppo.kl_coef": 0.05})
    assert ran(dvc("repro")) == []  # the run cache still holds the first result
    assert hashes() == first


def test_another_error_message_of_the_csv_reader_reruns_ingest_alone(finished: Workspace) -> None:
    module = Path("rlhf/data/formats/csv_files.py")
    before = module.read_text()
    assert "is the line cut off?" in before
    module.write_text(before.replace("is the line cut off?", "was the line cut off?"))
    assert re.findall(r"^([\w-]+):$", dvc("status"), re.MULTILINE) == ["ingest"]
    assert ran(dvc("repro")) == ["ingest"]
    module.write_text(before)
    assert ran(dvc("repro")) == []


@pytest.mark.parametrize("stage", TRAININGS)
def test_a_killed_training_goes_on_to_the_same_files(finished: Workspace, stage: str) -> None:
    folder = Path("models", TRAININGS[stage])
    whole = sha256(folder)
    subprocess.run(["rm", "-rf", f"checkpoints/{stage}", str(folder)], check=True)
    kill_after_first_checkpoint(stage)
    assert not folder.exists(), f"{stage} ended before it was killed"
    done = subprocess.run([sys.executable, "-m", f"tasks.{stage}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "continuing from" in done.stdout + done.stderr
    assert sha256(folder) == whole


def test_every_other_stage_run_again_writes_the_same_bytes(finished: Workspace) -> None:
    first = hashes()
    others = sorted(set(stages()) - set(TRAININGS))  # of these, the tests above say more
    assert sorted(ran(dvc("repro", "--force", "--single-item", *others))) == others
    assert hashes() == first


def stages() -> dict[str, Any]:
    return yaml.safe_load(Path("dvc.yaml").read_text())["stages"]


def hashes() -> dict[str, str]:
    """DVC's hash of every dataset, model and metric."""
    stages = yaml.safe_load(Path("dvc.lock").read_text())["stages"].values()
    outs = {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}
    return {path: md5 for path, md5 in outs.items() if not path.startswith(VARYING)}


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


KILLED = """
import os, runpy, signal, sys
renamed = []
def watch(event, words):
    if renamed and event != "os.kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if event == "os.rename" and "/checkpoint-" in str(words[1]):
        renamed.append(words[1])
sys.addaudithook(watch)
stage = sys.argv.pop()
runpy.run_module(f"tasks.{stage}", run_name="__main__", alter_sys=True)
"""


def kill_after_first_checkpoint(stage: str) -> None:
    """Run a stage that kills itself right behind its first checkpoint, however fast it is."""
    done = subprocess.run([sys.executable, "-c", KILLED, stage], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, f"{stage} ended without a checkpoint: {done.stderr[-3000:]}"
