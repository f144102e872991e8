"""The flow and its tasks, over a small graph of its own in a temporary repository."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import yaml
from conftest import PATIENCE, ROOT
from flow_results import EVALUATION, GATE, git
from label_app import answer, candidates, filled, person
from prefect import State
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, StateType, TaskRun
from prefect.events import DeploymentEventTrigger
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running
from prefect.testing.utilities import prefect_test_harness

import flows.loop
import flows.pipeline
import flows.run
from flows import machine as runs
from flows import stages as stage
from flows import trace, verdict
from flows.params import parse_changes, plan, write_params
from flows.run_state import RunState, read_state
from flows.workspace import bring, enter, experiments, free_name, snapshot, up_to_date
from labeling import exports
from labeling import items as items_
from labeling import projects as projects_
from labeling.store import Store
from rlhf.data.contracts import COMPARISON, with_ids
from rlhf.data.errors import DataError
from rlhf.data.files import write_json
from rlhf.data.table import write_table
from rlhf.settings import Settings, SettingsError, check_settings, load_settings
from tasks.runtime import registry
from tasks.runtime import stage as context
from tasks.runtime.places import state_dir
from tasks.runtime.tracking import EXPERIMENT, start_parent_run

STEP = """
import pathlib, sys
sys.path.insert(0, ".")
name, *outs = sys.argv[1:]
if pathlib.Path("data.txt").read_text() == "bad" and name == "prepare":
    sys.exit("error: data.txt: row 3: no number; write one")
for out in outs:
    path = pathlib.Path(out)
    path.parent.mkdir(exist_ok=True)
    path.write_text(name + "\\n")
    print(f"{name}: wrote {out}")
"""
GRAPH: dict[str, Any] = {
    "ingest": {"deps": ["step.py", "data.txt"], "params": ["seed"], "outs": ["data/raw"]},
    "prepare": {"deps": ["data/raw", "data.txt"], "outs": ["data/prepared"]},
    "train": {"deps": ["data/prepared"], "params": ["ppo.kl_coef"], "outs": ["models/policy"]},
    "evaluate": {"deps": ["data/prepared", "models/policy"], "outs": ["reports/report.html"]},
}
EDGES = {
    "ingest": set(),
    "prepare": {"ingest"},
    "train": {"prepare"},
    "evaluate": {"prepare", "train"},
}
STEPS = STEP.replace('write_text(name + "\\n")', 'write_text(name + os.urandom(8).hex() * (name == "train"))')
RANKINGS = [
    {
        "prompt": "p",
        "completions": ["a", "b"],
        "ranking": [1, 2],
        "labeler_id": who,
        "labeler_group": "expert",
    }
    | {"guideline_version": version, "split": "train"}
    for who, version in (("ann", "2"), ("bob", "1"), ("ann", "2"))
]
SMALL = {name: GRAPH[name] for name in ("ingest", "prepare")}


def write_graph(graph: dict[str, Any]) -> None:
    stages = {
        name: {"cmd": f"python step.py {name} {entry['outs'][0]}", **entry} for name, entry in graph.items()
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    context.stages.cache_clear()


def changed(seed: int) -> Settings:
    return check_settings({"seed": seed}, "test")


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Prefect server and an MLflow store for all tests of this file."""
    state = tmp_path_factory.mktemp("state")
    with prefect_test_harness(server_startup_timeout=int(PATIENCE)):
        yield state


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A committed repository with a graph of two stages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RLHF_STATE", str(tmp_path / ".state"))
    context.stages.cache_clear()
    Path("step.py").write_text(STEP)
    Path("data.txt").write_text("1")
    Path(".gitignore").write_text("/data\n/models\n/reports\n/checkpoints\n/.state\n/.runs\n")
    # what the stages would write; here it is the same for every run
    write_json("metrics/evaluation.json", EVALUATION)
    write_json("runs/register.json", {"gate": GATE})
    Path("params.yaml").write_text("# kept\n" + yaml.safe_dump(Settings().model_dump(by_alias=True)))
    write_graph(SMALL)
    recipes = {"other": {"seed": 5}, "files": {"seed": 5, "ingest": {"source": "files"}}}
    for name, delta in recipes.items():
        Path("recipes", name).mkdir(parents=True)
        Path("recipes", name, "params.yaml").write_text(yaml.safe_dump(delta))
    git("init", "--quiet")
    from dvc.repo import Repo

    Repo.init().close()
    git("add", ".")
    git("commit", "--quiet", "--message", "start")
    yield tmp_path
    context.stages.cache_clear()


@pytest.fixture
def run(repository: Path, services: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the flow; returns its state, its task runs by name, and the flow run."""
    monkeypatch.setenv("RLHF_STATE", str(services))

    def run(name: str | None = None, **parameters: Any) -> tuple[Any, dict[str, TaskRun], FlowRun]:
        named = flows.pipeline.rlhf.with_options(flow_run_name=name)
        state = named(return_state=True, **parameters)
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(state.state_details.flow_run_id)
            only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
            found = client.read_task_runs(flow_run_filter=only)
        return state, {task_run.name: task_run for task_run in found}, flow_run

    return run


def test_a_form_sends_no_secret_elsewhere(run: Any) -> None:
    """Whoever may fill in the form may not choose what of the worker's environment goes where."""
    write_graph(GRAPH)
    llm = {"url": "https://evil.example/v1", "model": "m", "key_variable": "AWS_SECRET_ACCESS_KEY"}
    state, tasks, _ = run(settings=check_settings({"evaluate": {"judges": ["llm"], "llm": llm}}, "test"))
    assert state.is_failed()
    assert "prompts may not be sent to evil.example" in str(state.message)
    assert tasks == {}


def test_one_named_task_a_stage_with_the_edges_of_the_graph(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graph(GRAPH)
    state, tasks, _ = run()
    assert state.is_completed()
    names = {task_run.id: name for name, task_run in tasks.items()}
    edges = {
        name: {names[upstream.id] for upstream in task_run.task_inputs.get("wait_for", [])}
        for name, task_run in tasks.items()
    }
    assert edges == EDGES
    assert {task_run.state_name for task_run in tasks.values()} == {"Completed"}
    monkeypatch.chdir(state.result())
    keys = {name: context.stage_key(name) for name in GRAPH}
    assert {name: task_run.task_version for name, task_run in tasks.items()} == keys
    assert all(f"key:{keys[name]}" in task_run.tags for name, task_run in tasks.items())


def test_a_run_has_one_name_in_three_tools_and_leaves_the_checkout_alone(run: Any) -> None:
    import mlflow

    Path("step.py").write_text(STEP + "# not committed\n")
    Path("new.txt").write_text("not in git yet")
    before = git("status", "--porcelain"), git("stash", "list"), Path("params.yaml").read_text()
    enter("a-name", "another-run", Settings())
    state, _, flow_run = run(name="a name", settings=changed(5), recipe="other")
    assert flow_run.name == f"a-name-{str(flow_run.id)[:8]}"
    assert (git("status", "--porcelain"), git("stash", "list"), Path("params.yaml").read_text()) == before

    tree = Path(state.result())
    assert tree == Path(".runs", flow_run.name).resolve()
    assert load_settings(tree / "params.yaml").seed == 5
    assert (tree / "step.py").read_text().endswith("# not committed\n")
    assert (tree / "new.txt").exists()

    commit = experiments()[flow_run.name]
    [parent] = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string=f"tags.prefect_flow_run = '{flow_run.id}'",
        output_format="list",
    )
    assert (parent.info.run_name, parent.info.status) == (flow_run.name, "FINISHED")
    tags = parent.data.tags
    assert (tags["dvc_experiment"], tags["dvc_commit"], tags["recipe"]) == (flow_run.name, commit, "other")
    message = git("log", "-1", "--format=%B", commit)
    assert str(flow_run.id) in message
    assert parent.info.run_id in message
    assert git("rev-parse", f"{commit}^") == git("rev-parse", "HEAD")
    assert "seed: 5" in git("show", f"{commit}:params.yaml")
    assert git("show", f"{commit}:dvc.lock") == (tree / "dvc.lock").read_text()


def test_a_name_is_a_git_reference_and_used_once(repository: Path) -> None:
    assert free_name("a name: with / signs", "1234567890") == "a-name-with-signs"
    assert free_name("...", "1234567890") == "run"
    enter("taken", "1234567890", Settings())
    assert free_name("taken", "1234567890") == "taken"
    assert free_name("taken", "abcdefghij") == "taken-abcdefgh"


def test_what_did_not_change_is_not_run_again(
    run: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, _, _ = run()
    assert bring(Path(state.result()), snapshot()) == []
    assert Path("data/prepared").read_text() == "prepare\n"
    assert up_to_date(load_settings())
    assert not up_to_date(changed(5))
    assert flows.run.lost_from_registry()  # the committed record names a version that nobody registered
    assert "but the registry has no version 3 of rlhf-policy" in capsys.readouterr().out
    here = registry.Standing("rlhf-policy", "3", False, "3", "", lost="")
    monkeypatch.setattr(flows.run, "standing", lambda: here)
    flows.run.main([])
    assert capsys.readouterr().out.startswith("nothing to do")
    Path("data.txt").write_text("2")
    assert not up_to_date(load_settings())
    Path("data.txt").write_text("1")
    _, tasks, _ = run()
    assert {task_run.state_name for task_run in tasks.values()} == {"Up to date"}
    _, tasks, _ = run(settings=changed(5))
    states = {name: task_run.state_name for name, task_run in tasks.items()}
    assert states == {"ingest": "Completed", "prepare": "Up to date"}
    Path("dvc.lock").unlink()
    _, tasks, _ = run()
    assert {task_run.state_name for task_run in tasks.values()} == {"Restored"}


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


def test_a_failed_stage_ends_both_runs_with_its_one_line(run: Any) -> None:
    import mlflow

    Path("data.txt").write_text("bad")
    state, tasks, flow_run = run()
    assert state.is_failed()
    assert state.message == "prepare: data.txt: row 3: no number; write one"
    assert {name: task_run.state_name for name, task_run in tasks.items()} == {
        "ingest": "Completed",
        "prepare": "Failed",
    }
    assert not Path(".runs", flow_run.name, "data/prepared").exists()
    assert flow_run.name not in experiments()
    [found] = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string=f"tags.prefect_flow_run = '{flow_run.id}'",
        output_format="list",
    )
    assert (found.info.run_name, found.info.status) == (flow_run.name, "FAILED")


def test_a_round_uses_every_label_and_none_twice(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Too few labels wait; a failed round comes again with what came since, a killed one as it was."""
    import mlflow

    store = Store(f"sqlite:///{tmp_path / 'labels.db'}")
    monkeypatch.setenv("LABELING_DB", str(store.engine.url))
    with store.write() as tx:
        projects_.add_project(tx, "p", "test")
    ann, queue = person(store, "ann"), filled(store, "rank", candidates(9))
    settings = check_settings({"collect": {"labels": {"project": "p"}}}, "test")

    def label(number: int) -> None:
        for _ in range(number):
            answer(store, ann, queue, ranks=[1, 2])

    def go(minimum: int) -> State:
        return flows.loop.feedback(settings, minimum, 0, return_state=True)

    def used() -> list[tuple[int, int, int]]:
        return [(one.version, one.new, one.labels) for one in flows.loop.rounds(store, "p")]

    label(2)
    state = go(3)
    assert (state.name, state.message) == ("Waiting", "2 of 3 new labels in project 'p'")

    Path("data.txt").write_text("bad")
    state = go(2)
    assert state.is_failed()
    assert state.message == "version 1 of the labels: prepare: data.txt: row 3: no number; write one"
    Path("data.txt").write_text("1")
    label(1)
    assert go(4).name == "Waiting"
    assert go(3).name == "Not promoted"
    assert used() == [(2, 3, 3)]
    [tree] = Path(".runs").glob("p-labels-2*")
    collect = load_settings(tree / "params.yaml").collect
    with store.read() as tx:
        rankings = exports.tables(tx, "p", 2)["comparisons"]
    assert (collect.labelers, collect.labels.version) == ("store", 2)
    assert collect.labels.sha256 == exports.rows_hash(rankings)
    assert len(rankings) == 3

    label(1)
    with store.write() as tx:
        assert exports.cut(tx, "p", "test") == 3
    killed = start_parent_run("p-labels-3", mlflow.MlflowClient(), "execution")
    for tag, value in (("labels_project", "p"), ("labels_version", "3")):
        mlflow.MlflowClient().set_tag(killed, tag, value)
    mlflow.MlflowClient().set_terminated(killed, "KILLED")
    label(2)
    assert go(9).is_completed()
    assert used() == [(2, 3, 3), (3, 1, 4)]
    assert go(3).message == "2 of 3 new labels in project 'p'"
    store.close()


def test_the_event_of_enough_labels_is_what_starts_a_round(
    repository: Path, services: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLHF_STATE", str(services))
    monkeypatch.setenv("LABELING_DB", f"sqlite:///{repository / 'labels.db'}")
    project = Settings().collect.labels.project
    store = Store(os.environ["LABELING_DB"])
    with store.write() as tx:
        projects_.add_project(tx, "p", "test")
        projects_.add_project(tx, project, "test")
        projects_.add_queue(tx, projects_.project_id(tx, project), "rank", "rank", "test")
        row = projects_.queue_row(tx, project, "rank")
        items_.add_items(tx, row, candidates(2), items_.Filling(), "test")
    answer(store, person(store, "ann"), row.id, ranks=[1, 2])
    store.close()
    worker = EventsWorker.instance(AssertingEventsClient)
    monkeypatch.setattr(EventsWorker, "instance", lambda *_: worker)
    for minimum in (2, 1):
        state = flows.loop.watch_labels(project, minimum, return_state=True)
        assert state.message == f"1 of {minimum} new labels in project {project!r}"
    worker.drain()
    [event] = [event for event in worker._client.events if event.event == flows.loop.ENOUGH]
    assert event.payload == {"new_labels": 1}

    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    [entry] = [entry for entry in deployments if entry["name"] == "feedback"]
    [trigger] = [DeploymentEventTrigger.model_validate(one) for one in entry["triggers"]]
    assert trigger.expect == {event.event}
    assert trigger.match.root == {"prefect.resource.id": event.resource.id}


def test_only_the_data_is_validated(run: Any) -> None:
    write_graph({"ingest": GRAPH["ingest"], "validate": GRAPH["prepare"], "train": GRAPH["train"]})
    state = flows.pipeline.validate_data(return_state=True)
    tree = Path(state.result())
    assert (tree / "data/prepared").exists()
    assert not (tree / "models/policy").exists()


SLEEPER = "import os, time; os.setsid(); time.sleep(600)"
CHECKPOINTED = """
import os, pathlib, subprocess, sys, yaml
seed = yaml.safe_load(pathlib.Path("params.yaml").read_text())["seed"]
checkpoint = pathlib.Path("{root}", "checkpoints", str(seed))
checkpoint.parent.mkdir(exist_ok=True)
if not checkpoint.exists():
    checkpoint.write_text(os.urandom(8).hex())
    subprocess.run([sys.executable, "-c", "{sleeper}"])
pathlib.Path("data").mkdir(exist_ok=True)
pathlib.Path("data/raw").write_text(checkpoint.read_text())
"""


def eventually(found: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with suppress(ObjectNotFound):
            if value := found():
                return value
        time.sleep(0.1)
    pytest.fail("nothing happened for twenty minutes")


def at_work(seed: int) -> list[psutil.Process]:
    """The flow's process of the run with this seed and all under it, once its stage has gone to sleep."""
    for record in runs.living():
        if load_settings(Path(record.folder, "params.yaml")).seed == seed:
            flow = psutil.Process(record.pid)
            family = flow.children(recursive=True)
            return [flow, *family] if any(SLEEPER in process.cmdline() for process in family) else []
    return []


def test_no_process_outlives_its_run_and_the_next_run_goes_on(
    repository: Path, services: Path, run: Any
) -> None:
    """SIGTERM to a run in a terminal, cancel under a worker and under `serve`, SIGKILL of worker and run."""
    program = CHECKPOINTED.replace("{root}", str(repository)).replace("{sleeper}", SLEEPER)
    Path("step.py").write_text(program)
    write_graph({"ingest": GRAPH["ingest"]})
    env = {
        **os.environ,
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PYTHONPATH": str(ROOT),
    }
    serve = (
        "import flows.pipeline; from prefect.deployments.runner import EntrypointType as Type\n"
        "flows.pipeline.rlhf.serve('served', pause_on_shutdown=False, entrypoint_type=Type.MODULE_PATH)"
    )
    before = git("status", "--porcelain")
    with get_client(sync_client=True) as client, ExitStack() as stack:

        def start(*words: str) -> subprocess.Popen[bytes]:
            process = stack.enter_context(subprocess.Popen([sys.executable, *words], env=env))
            stack.callback(process.kill)
            return process

        def submit(deployment: UUID, seed: int) -> UUID:
            values = {"settings": changed(seed).model_dump(by_alias=True)}
            return client.create_flow_run_from_deployment(deployment, parameters=values).id

        client.create_work_pool(WorkPoolCreate(name="pool", type="process"))
        pull = {"prefect.deployments.steps.set_working_directory": {"directory": str(repository)}}
        flow_id = client.create_flow(flows.pipeline.rlhf)
        worked = client.create_deployment(
            flow_id, "worked", entrypoint="flows.pipeline.rlhf", pull_steps=[pull], work_pool_name="pool"
        )
        in_terminal = start("-m", "flows.run", "--set", "seed=1")
        worker = start("-m", "prefect", "worker", "start", "--pool", "pool")
        server = start("-c", serve)
        served = eventually(lambda: client.read_deployment_by_name("rlhf/served")).id
        cancelled = [submit(worked, 2), submit(served, 3)]
        families = [eventually(lambda seed=seed: at_work(seed)) for seed in (1, 2, 3)]
        in_terminal.terminate()
        for flow_run in cancelled:
            client.set_flow_run_state(flow_run, State(type=StateType.CANCELLING))
        for family in families:
            assert psutil.wait_procs(family, timeout=PATIENCE)[1] == []
        assert (worker.poll(), server.poll()) == (None, None)
        assert runs.living() == []
        assert git("status", "--porcelain") == before

        killed = submit(worked, 4)
        flow, *family = eventually(lambda: at_work(4))
        worker.kill()
        flow.kill()
        assert any(process.is_running() for process in family)
        state, _, _ = run(settings=changed(4))
        assert Path(state.result(), "data/raw").read_text() == Path("checkpoints/4").read_text()
        assert psutil.wait_procs(family, timeout=PATIENCE)[1] == []
        assert client.read_flow_run(killed).state.is_crashed()


def test_a_killed_run_is_cleared_by_the_next(run: Any) -> None:
    """A run whose process is gone: what it left running ends, Prefect and MLflow say what happened."""
    import mlflow

    left = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env={**os.environ, context.PARENT_RUN: "of-the-killed"},
        start_new_session=True,
    )
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(flows.pipeline.rlhf, state=Running())
        card = ArtifactCreate(key="links", type="markdown", data="state: running", flow_run_id=flow_run.id)
        card_id = client.create_artifact(card).id
    context.connect()
    parent = start_parent_run("killed", mlflow.MlflowClient(), "execution")
    stage_run = start_parent_run("sft", mlflow.MlflowClient(), "execution")
    mlflow.MlflowClient().set_tag(stage_run, "mlflow.parentRunId", parent)
    RunState("killed", began=0.0, stages=["ingest", "sft"], ended=["ingest"]).save(Path("x"))
    record = runs.Record("killed", str(flow_run.id), parent, "x", socket.gethostname(), 2**22 + 1, 0.0)
    write_json(state_dir() / "runs" / f"{flow_run.id}.json", asdict(record))
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, context.PARENT_RUN: parent}
    )
    try:
        assert run()[0].is_completed()
        child.wait(PATIENCE)
        assert (left.poll(), other.poll()) == (None, None)
    finally:
        for process in (left, other, child):
            process.kill()
            process.wait()
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(flow_run.id).state.is_crashed()
        [shown] = [one for one in client.read_artifacts() if one.id == card_id]
    assert "- state: killed; without results: sft\n" in str(shown.data)
    assert [mlflow.get_run(run).info.status for run in (parent, stage_run)] == ["KILLED"] * 2
    assert mlflow.get_run(parent).data.tags["mlflow.note.content"] == "killed; without results: sft"
    assert str(read_state(Path("x"))) == "killed; without results: sft"
    assert runs.clear_dead() == []


def test_a_worktree_shares_cache_and_checkpoints_and_links_the_users_data(
    repository: Path, monkeypatch: pytest.MonkeyPatch
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
    with Repo() as here, Repo(str(tree)) as there:
        assert there.cache.local_cache_dir == here.cache.local_cache_dir == str(repository / ".dvc/cache")

    (tree / "dvc.lock").write_text("{}")
    assert enter("one", "id", settings) == tree  # tried again: goes on where it was
    assert (tree / "dvc.lock").read_text() == "{}"
    monkeypatch.chdir(tree)
    monkeypatch.delenv("RLHF_STATE")
    folder = context.Stage("sft", settings, "key", "run").checkpoints
    assert folder == repository / "checkpoints/sft/key"
    assert state_dir() == repository / ".state"


def test_new_files_make_a_run_dirty_only_where_the_code_is(repository: Path) -> None:
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


def test_data_becomes_a_path_and_a_hash(repository: Path) -> None:
    Path("demonstrations.jsonl").write_text("abc")
    ingest = plan("files", "demonstrations.jsonl", {}).ingest
    assert ingest.path == str(repository / "demonstrations.jsonl")
    assert ingest.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def registered(state: Any, name: str) -> str:
    """A registered version as the stage `register` makes one: its run is a child of the run's parent."""
    import mlflow

    flow_run = str(state.state_details.flow_run_id)
    [parent] = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string=f"tags.prefect_flow_run = '{flow_run}'",
        output_format="list",
    )
    client = mlflow.MlflowClient()
    with mlflow.start_run(run_name="register", parent_run_id=parent.info.run_id) as child:
        pass
    client.create_registered_model(name)
    version = client.create_model_version(
        name, Path("models").resolve().as_uri(), child.info.run_id, tags={"weights": "abc"}
    )
    client.set_registered_model_alias(name, "champion", version.version)
    return f"models:/{name}@champion"


def test_ancestry_and_reproduction(run: Any) -> None:
    Path("step.py").write_text("import os\n" + STEPS)
    write_table("ranked.parquet", COMPARISON, with_ids(COMPARISON, RANKINGS, "test"))
    collect = {
        "cmd": "mkdir -p data/comparisons && cp ranked.parquet data/comparisons/comparisons.parquet",
        "deps": ["ranked.parquet"],
        "outs": ["data/comparisons"],
    }
    write_graph({"ingest": GRAPH["ingest"], "train": GRAPH["train"] | {"deps": ["data/raw"]}})
    stages = yaml.safe_load(Path("dvc.yaml").read_text())
    stages["stages"]["collect"] = collect
    Path("dvc.yaml").write_text(yaml.safe_dump(stages))
    git("add", ".")
    git("commit", "--quiet", "--message", "graph")
    base = git("rev-parse", "HEAD").strip()
    state = run(settings=changed(5))[0]
    uri = registered(state, "of-the-test")

    found = trace.trace(uri)
    tree = Path(state.result())
    outs = trace.outputs(yaml.safe_load((tree / "dvc.lock").read_text()))
    assert found["model"]["tags"]["weights"] == "abc"
    assert found["runs"]["prefect flow run"] == str(state.state_details.flow_run_id)
    assert found["experiment"]["name"] == tree.name
    assert found["experiment"]["commit"] == experiments()[tree.name]
    assert found["data"] == {path: outs[path] for path in ("data/raw", "data/comparisons")}
    assert found["params"]["seed"] == 5
    assert found["labelers"]["people"]["ann"] == {"group": "expert", "rankings": 2}
    assert found["labelers"]["guideline versions"] == {"1": 1, "2": 2}
    shown = trace.show(found)
    assert "of-the-test version 1 @champion" in shown
    assert outs["data/raw"] in shown

    for missing in ("nothing", "models:/nothing@champion", "models:/of-the-test/9", "models:/a/b"):
        with pytest.raises(DataError, match=missing):
            trace.find_version(missing)

    # what was cached does not count: `train` writes something else each time it runs
    rows = trace.reproduce(found)
    assert {path for path, then, now in rows if then == now} == {"data/raw", "data/comparisons"}
    assert {path for path, then, now in rows if then != now} == {"models/policy"}
    assert not Path("checkpoints").exists()
    with chdir(Path(".runs", f"reproduce-{tree.name}")):
        assert context.git_commit() == base


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--recipe", "nope"], "recipes/ has files, other"),
        (["--recipe", "files"], "add --data PATH"),
        (["--recipe", "files", "--data", "nope.jsonl"], "nope.jsonl: no such file or folder"),
        (["--data", "data.txt"], "ingest.source is builtin"),
        (["--set", "ppo.kl_coeff=1"], "did you mean 'ppo.kl_coef'"),
        (["--set", "ppo.kl_coef=-1"], "greater than or equal to 0, got -1"),
        (["--set", "ppo.kl_coef.x=1"], "no such parameter"),
        (["--set", "ppo.kl_coef"], "expected KEY=VALUE"),
        (["--set", "model.scale=9T"], "'0.1M'"),
    ],
)
def test_bad_input_ends_in_one_line_before_anything_starts(
    words: list[str],
    says: str,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flows.pipeline, "rlhf", lambda *_, **__: pytest.fail("the flow was started"))
    before = Path("params.yaml").read_text()
    with pytest.raises(SystemExit) as ended:
        flows.run.main(words)
    out, err = capsys.readouterr()
    assert ended.value.code == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
    assert out == ""
    assert Path("params.yaml").read_text() == before
    assert not Path(".runs").exists()


def test_set_changes_the_named_values_and_keeps_comments(repository: Path) -> None:
    words = ["ppo.learning_rate=7.5e-3", "collect.groups.expert=0.55", "ppo.missing_eos=null"]
    lines = write_params(Path("params.yaml"), plan(None, None, parse_changes(words)))
    assert f"ppo.learning_rate: {Settings().ppo.learning_rate} -> 0.0075" in lines
    assert len(lines) == 3
    written = yaml.safe_load(Path("params.yaml").read_text())
    assert written["ppo"]["learning_rate"] == 0.0075
    assert written["ppo"]["missing_eos"] is None
    assert written["collect"]["groups"]["expert"] == 0.55
    assert Path("params.yaml").read_text().startswith("# kept\n")
    assert write_params(Path("params.yaml"), load_settings()) == []


def test_a_model_judge_is_called_one() -> None:
    assert verdict._judge({"name": "gold", "kind": "gold"}) == "gold"
    assert verdict._judge({"name": "reward-model", "kind": "model"}) == "reward-model (model judge)"


def test_values_are_yaml() -> None:
    assert parse_changes(["a.b=3", "c=null", "d=word", "e=x=y"]) == {
        "a.b": 3,
        "c": None,
        "d": "word",
        "e": "x=y",
    }
    with pytest.raises(SettingsError, match="not valid YAML"):
        parse_changes(["a=["])


def test_a_progress_bar_does_not_flood_the_log() -> None:
    bar = b"".join(b"\r\x1b[32m%3d%%|##\x1b[0m" % percent for percent in range(100))
    raw = b"start\n" + bar + "\r100%|##…\n\n  \nloss 1.5\nlast".encode()
    assert list(stage.readable(io.BytesIO(raw))) == ["start", "  0%|##", "100%|##…", "loss 1.5", "last"]


def commands(**stages: str) -> None:
    Path("dvc.yaml").write_text(
        yaml.safe_dump({"stages": {name: {"cmd": cmd} for name, cmd in stages.items()}})
    )


def test_one_process_runs_stage_after_stage(repository: Path) -> None:
    commands(first="cat; echo first", bad="echo error: no; exit 3", again="echo $PPID > pid; kill -9 $PPID")
    said: list[str] = []
    with stage.Dvc() as dvc:
        assert dvc.repro("first", said.append) == 0
        assert {"Running stage 'first':", "first"} <= set(said)
        said.clear()
        assert dvc.repro("bad", said.append) == 255
        assert stage.error_line("bad", said, 255) == "bad: no"
        assert dvc.repro("again", said.append) == -signal.SIGKILL
        assert not psutil.pid_exists(int(Path("pid").read_text()))
        said.clear()
        assert dvc.repro("first", said.append) == 0  # a new process
        assert "first" in said


def test_an_exception_ends_the_stage_and_what_it_started(repository: Path) -> None:
    commands(sleep="python -c \"import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)\"")
    started = []

    def read(line: str) -> None:
        if line.startswith("pid "):
            started.append(psutil.Process(int(line.split()[1])))
            raise KeyboardInterrupt

    dvc = stage.Dvc()
    with pytest.raises(KeyboardInterrupt):
        dvc.repro("sleep", read)
    psutil.wait_procs(started, timeout=PATIENCE)
    assert not started[0].is_running() or started[0].status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "http://host:port/api"])
def test_a_server_that_does_not_answer_is_one_line(
    url: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(SystemExit):
        flows.run.main(["--name", "nowhere"])
    said = capsys.readouterr().err
    assert said.startswith(f"error: no Prefect server answers at {url}")
    assert said.count("\n") == 1


def test_a_temporary_server_ends_with_a_killed_run(tmp_path: Path) -> None:
    program = (
        "import pathlib, time\nfrom flows.services.prefect import _start_server\n"
        "print(_start_server(pathlib.Path('.')).process.pid, flush=True)\ntime.sleep(600)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, stdout=subprocess.PIPE
    ) as run:
        assert run.stdout
        server = psutil.Process(int(run.stdout.readline()))
        assert server.is_running()
        run.kill()
    psutil.wait_procs([server], timeout=PATIENCE)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (["error: x: row 1: bad", "ERROR: failed to reproduce"], "sft: x: row 1: bad"),
        (["Traceback", "KeyError: 'a'", "ERROR: exited with 1"], "sft: KeyError: 'a'; exited with 1"),
        (["ERROR: exited with -9"], "sft: exited with -9"),
        ([], "sft: exit code 3"),
    ],
)
def test_error_line(said: list[str], line: str) -> None:
    assert stage.error_line("sft", said, 3) == line


def test_the_verdict_names_judge_count_and_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for folder in ("metrics", "runs"):
        Path(folder).mkdir()
    Path("metrics/evaluation.json").write_text(json.dumps(EVALUATION))
    Path("runs/register.json").write_text(json.dumps({"gate": GATE}))
    asked = []

    def standing(folder: Path) -> registry.Standing:
        asked.append(folder)
        return registry.Standing("rlhf-policy", "3", False, "5", "4", "")

    monkeypatch.setattr(verdict, "standing", standing)
    verdict.show_verdict(tmp_path, {"report": "reports/report.html"})
    out = capsys.readouterr().out
    ppo = next(line for line in out.splitlines() if line.strip().startswith("PPO"))
    assert ppo.split() == ["PPO", "0.660", "0.620", "to", "0.700", "500", "gold", "4.25"]
    assert "95\u00a0% interval" in out
    lines = [line.strip() for line in out.splitlines()]
    first = lines.index(
        "not promoted: rlhf-policy version 3; @challenger is version 5, @champion is version 4"
    )
    assert lines[first + 1 : first + 4] == [  # what speaks against it comes first
        "FAILED: not below the champion (0.66 < 0.70)",
        "warning: 980 of 1000 prompts are ties",
        "held: interval above 0.5 (0.62 > 0.5)",
    ]
    assert asked == [tmp_path]
    assert "reports/report.html" in out
    assert "| PPO | 0.660 | 0.620 to 0.700 | 500 | gold | 4.25 |" in verdict.verdict_markdown(tmp_path)


def test_a_result_that_the_registry_lost_is_registered_again(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC would call the stage up to date, or restore it: what it did in the registry is no output."""
    lost = "version 3 of rlhf-policy"
    monkeypatch.setattr(
        stage,
        "standing",
        lambda: registry.Standing("rlhf-policy", "3", False, "3", "", lost) if lost else None,
    )
    write_json("runs/register.json", {"gate": GATE, "run_id": "r", "git_commit": "c", "figures": {}})
    write_graph(SMALL | {"register": {"deps": ["data/prepared"], "outs": ["data/registered"]}})

    def states() -> list[str | None]:
        state, tasks, _ = run(until="register")
        assert bring(Path(state.result()), before) == []
        return [tasks[name].state_name for name in ("ingest", "prepare", "register")]

    before = snapshot()
    assert states() == ["Completed"] * 3
    before = snapshot()
    assert states() == ["Up to date", "Up to date", "Completed"]
    lost = ""
    assert states() == ["Up to date"] * 3
    Path("dvc.lock").unlink()
    before = snapshot()
    assert states() == ["Restored"] * 3
    Path("dvc.lock").unlink()
    lost = "@champion of rlhf-policy"
    assert states() == ["Restored", "Restored", "Completed"]


def test_a_sweep_runs_each_cell_once_and_draws_the_figure(
    repository: Path, services: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.sweep import cells_of, sweep

    monkeypatch.setenv("RLHF_STATE", str(services))
    policies = {
        name: policy | {"wins": 300 + 10 * k, "ties": 0, "losses": 200 - 10 * k}
        for k, (name, policy) in enumerate(EVALUATION["policies"].items())
    }
    write_json("metrics/evaluation.json", EVALUATION | {"policies": policies, "confidence": 0.95})
    write_json("metrics/pretrain.json", {"parameters": 123456})
    write_graph(SMALL | {"evaluate": {"deps": ["data/prepared"], "outs": ["reports/report.html"]}})
    git("add", ".")
    git("commit", "--quiet", "--message", "metrics")
    changes = {"ppo.kl_coef": 0.2}
    with pytest.raises(SettingsError, match="no such size"):
        cells_of(["7B"], [1], changes, None)

    state = sweep(sizes=["0.1M"], seeds=[1], changes=changes, return_state=True)
    assert state.is_completed(), state.message
    data = json.loads(Path("reports/sizes/preference-by-size.json").read_text())
    [row] = data["rows"]
    assert (row["size"], row["seeds"], row["policies"]["sft"]["rate"]) == ("0.1M", [1], 0.62)
    assert data["command"] == "python -m flows.sweep --sizes 0.1M --seeds 1 --set ppo.kl_coef=0.2"
    assert set(data["runs"]) <= set(experiments())
    for name, commit in data["runs"].items():
        assert git("show", f"{commit}:params.yaml").count(f"seed: {name.split('-')[3]}\n") == 1
    assert Path("reports/sizes/preference-by-size.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in Path("reports/sizes/index.html").read_text()

    before = {name: commit for name, commit in experiments().items()}
    assert sweep(sizes=["0.1M"], seeds=[1], changes=changes, return_state=True).is_completed()
    assert experiments() == before  # nothing ran again
    Path("dvc.yaml").write_text(Path("dvc.yaml").read_text() + "# other code\n")
    assert {cell.name for cell in cells_of(["0.1M"], [1], changes, None)}.isdisjoint(before)
