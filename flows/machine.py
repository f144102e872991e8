"""The records of the runs at work on this machine, and the end of what a killed run left behind.

A record is a file in `.state/runs`, written with a flow's first line and completed as the run gets its name,
its MLflow run and its worktree. A run whose process is gone without having removed its record was killed: the
next run ends what is left of it, says so in Prefect and MLflow, and goes on from its checkpoints.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil

from flows.run_state import RunState, read_state
from rlhf.data.files import write_json
from tasks.runtime.places import state_dir, state_folder
from tasks.runtime.tracking import EXPERIMENT, PARENT_RUN


@dataclass(frozen=True)
class Record:
    """A run at work.

    Attributes:
        name: the run's name in Prefect, DVC and MLflow.
        flow_run: its id in Prefect.
        host, pid, after_boot: the flow's process and when that started, see `start_of`.
        mlflow_run: its id in MLflow, which every process of a stage carries in its environment; empty until
            there is one.
        folder: its worktree; empty until there is one.
    """

    name: str
    flow_run: str
    host: str
    pid: int
    after_boot: float
    mlflow_run: str = ""
    folder: str = ""

    def alive(self) -> bool:
        """Whether the flow's process still runs."""
        return is_alive(self.pid, self.after_boot)

    def reached(self) -> RunState | None:
        """How far the run came; None where no stage can have begun."""
        return read_state(Path(self.folder)) if self.folder else None


@contextmanager
def recorded() -> Iterator[Callable[..., None]]:
    """Keep a record of the flow run around the block; yields a function that takes what becomes known of it:
    `name`, `mlflow_run`, `folder`."""
    from prefect import runtime

    here, flow_run = psutil.Process(), str(runtime.flow_run.id)
    record = Record(str(runtime.flow_run.name), flow_run, socket.gethostname(), here.pid, start_of(here))
    path = state_folder("runs") / f"{flow_run}.json"

    def note(**known: Any) -> None:
        nonlocal record
        record = replace(record, **known)
        write_json(path, asdict(record))

    note()
    try:
        yield note
    finally:
        path.unlink(missing_ok=True)


def end_when_told(line: str) -> None:
    """End this process with a line on SIGTERM and when its terminal is closed, by an exception.

    By default a signal would end it at once and leave its training behind. Under `nohup` a closed terminal
    ends nothing.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: sys.exit(line))


def living() -> list[Record]:
    """The records of runs that are at work on this machine."""
    return [record for record in _records() if record.alive()]


def clear_dead() -> list[Record]:
    """End what killed runs left behind and mark them in Prefect and MLflow; returns their records."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    from flows.links import publish_state

    dead = [record for record in _records() if not record.alive()]
    for record in dead:
        with suppress(ObjectNotFound), get_client(sync_client=True) as client:
            _mark_crashed(client, UUID(record.flow_run))
        with suppress(MlflowException):
            for mlflow_run in filter(None, [record.mlflow_run or _mlflow_run_of(record.flow_run)]):
                end_processes(mlflow_run)
                end_stage_runs(mlflow_run)
                MlflowClient().set_terminated(mlflow_run, "KILLED")
        state = record.reached()
        if state and state.state == "running":
            state.state = "killed"
            publish_state(state, record.flow_run, record.mlflow_run, Path(record.folder))
        (_folder() / f"{record.flow_run}.json").unlink(missing_ok=True)
    return dead


def _mark_crashed(client: Any, flow_run: UUID) -> None:
    """Say in Prefect that a flow run crashed, and with it each of its task runs that has not ended."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.states import Crashed, State

    crashed: State = Crashed(message="its process was killed; the next run goes on from its checkpoints")
    of_this = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
    for task_run in client.read_task_runs(flow_run_filter=of_this):
        if not (task_run.state and task_run.state.is_final()):
            client.set_task_run_state(task_run.id, crashed, force=True)
    state = client.read_flow_run(flow_run).state
    if not (state and state.is_final()):
        client.set_flow_run_state(flow_run, crashed, force=True)


def _mlflow_run_of(flow_run: str) -> str | None:
    """The MLflow run of a flow that was killed before it could note it; None where there is none."""
    import mlflow

    mine = f"tags.execution = '{execution(flow_run)}'"
    runs = mlflow.search_runs(experiment_names=[EXPERIMENT], filter_string=mine, output_format="list")
    return runs[0].info.run_id if runs else None


def execution(flow_run: str) -> str:
    """What the MLflow run of a flow run has as its tag `execution`."""
    return f"prefect-{flow_run}"


def end_stage_runs(mlflow_run: str) -> None:
    """Close the MLflow runs of stages that were killed and could not do it themselves."""
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_run(mlflow_run).info.experiment_id
    mine = f"tags.`mlflow.parentRunId` = '{mlflow_run}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment], mine):
        client.set_terminated(run.info.run_id, "KILLED")


def end_processes(mlflow_run: str) -> None:
    """Kill every process that the stages of a run started, wherever it has ended up in the process tree."""
    killed = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(PARENT_RUN) == mlflow_run:
                process.kill()
                killed.append(process)
    psutil.wait_procs(killed, timeout=5)


def start_of(process: psutil.Process) -> float:
    """When a process started, in seconds after the machine did.

    It tells a process from a later one of the same number. The time of day would not: where somebody sets the
    clock, every running process has started at another time.
    """
    return process.create_time() - psutil.boot_time()


def is_alive(pid: int, started: float) -> bool:
    """Whether the process with this number still runs and is the one that started then, see `start_of`."""
    try:
        process = psutil.Process(pid)
        return abs(start_of(process) - started) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _folder() -> Path:
    return state_dir() / "runs"


def _records() -> list[Record]:
    records = []
    for path in sorted(_folder().glob("*.json")):
        with suppress(OSError, ValueError, TypeError):
            record = Record(**json.loads(path.read_text()))
            if record.host == socket.gethostname():
                records.append(record)
    return records
