"""No process outlives its run, however the run ends, and the next run goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from conftest import PATIENCE, ROOT
from flow_repository import GRAPH, changed, write_graph
from flow_results import git
from prefect import State, Task
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.states import Pending, Running

import flows.pipeline
from flows import machine as runs
from flows.run_state import RunState, read_state
from rlhf.data.files import write_json
from rlhf.settings import load_settings
from tasks.runtime import stage as context
from tasks.runtime.places import state_dir
from tasks.runtime.tracking import start_parent_run

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


def eventually(ask: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with suppress(ObjectNotFound):
            if value := ask():
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
    small_repository: Path, services: Path, run: Any
) -> None:
    """SIGTERM to a run in a terminal, cancel under a worker and under `serve`, SIGKILL of worker and run."""
    program = CHECKPOINTED.replace("{root}", str(small_repository)).replace("{sleeper}", SLEEPER)
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

        def start(*arguments: str) -> subprocess.Popen[bytes]:
            process = stack.enter_context(subprocess.Popen([sys.executable, *arguments], env=env))
            stack.callback(process.kill)
            return process

        def submit(deployment: UUID, seed: int) -> UUID:
            values = {"settings": changed(seed).model_dump(by_alias=True)}
            return client.create_flow_run_from_deployment(deployment, parameters=values).id

        client.create_work_pool(WorkPoolCreate(name="pool", type="process"))
        pull = {"prefect.deployments.steps.set_working_directory": {"directory": str(small_repository)}}
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
        early = client.create_flow_run(flows.pipeline.rlhf, state=Pending())
        task_run = client.create_task_run(Task(lambda: None, name="sft"), flow_run.id, "sft", state=Running())
        card = ArtifactCreate(key="links", type="markdown", data="state: running", flow_run_id=flow_run.id)
        card_id = client.create_artifact(card).id
    context.connect()
    parent = start_parent_run("killed", mlflow.MlflowClient(), "execution")
    stage_run = start_parent_run("sft", mlflow.MlflowClient(), "execution")
    mlflow.MlflowClient().set_tag(stage_run, "mlflow.parentRunId", parent)
    RunState("killed", began=0.0, stages=["ingest", "sft"], ended=["ingest"]).save(Path("x"))
    dead = (socket.gethostname(), 2**22 + 1, 0.0)
    record = runs.Record("killed", str(flow_run.id), *dead, parent, "x")
    write_json(state_dir() / "runs" / f"{flow_run.id}.json", asdict(record))
    # Another was killed in its first seconds, before it had a worktree or could note its MLflow run.
    early_parent = start_parent_run("early", mlflow.MlflowClient(), runs.execution(str(early.id)))
    record = runs.Record("early", str(early.id), *dead)
    write_json(state_dir() / "runs" / f"{early.id}.json", asdict(record))
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
        assert client.read_flow_run(early.id).state.is_crashed()
        assert client.read_task_run(task_run.id).state.is_crashed()
        [card] = [artifact for artifact in client.read_artifacts() if artifact.id == card_id]
    assert "- state: killed; without results: sft\n" in str(card.data)
    ended = (parent, stage_run, early_parent)
    assert [mlflow.get_run(run).info.status for run in ended] == ["KILLED"] * 3
    assert mlflow.get_run(parent).data.tags["mlflow.note.content"] == "killed; without results: sft"
    assert str(read_state(Path("x"))) == "killed; without results: sft"
    assert runs.clear_dead() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_and_a_closed_terminal_end_a_run_by_an_exception(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    try:
        signal.signal(number, signal.SIG_DFL)
        runs.end_when_told("error: terminated")
        with pytest.raises(SystemExit, match="error: terminated"):
            signal.raise_signal(number)
        signal.signal(number, signal.SIG_IGN)
        runs.end_when_told("error: terminated")  # under nohup
        signal.raise_signal(number)
    finally:
        signal.signal(number, before)


def test_a_run_is_alive_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clock is set, every process started at another time of day, and so did the machine."""
    here = psutil.Process()
    started = runs.start_of(here)
    began, created = psutil.boot_time(), psutil.Process.create_time
    monkeypatch.setattr(psutil, "boot_time", lambda: began - 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: created(process) - 3600)
    assert runs.is_alive(here.pid, started)
    assert not runs.is_alive(here.pid, started - 60)


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
