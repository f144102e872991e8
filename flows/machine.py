"""The records of the runs at work on this machine, and the end of what a killed run left behind.

A record is a file in `.state/runs`. A run whose process is gone without having removed its record was killed:
the next run ends what is left of it, says so in Prefect and MLflow, and goes on from its checkpoints.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

import psutil

from flows.run_state import read_state
from rlhf.data.files import write_json
from tasks.runtime.places import state_dir, state_folder
from tasks.runtime.tracking import PARENT_RUN


@dataclass(frozen=True)
class Record:
    """A run at work.

    Attributes:
        name: the run's name in Prefect, DVC and MLflow.
        flow_run: its id in Prefect.
        mlflow_run: its id in MLflow; every process of a stage carries it in its environment.
        folder: its worktree.
        host, pid, started: the flow's process and when that started, seconds since 1970.
    """

    name: str
    flow_run: str
    mlflow_run: str
    folder: str
    host: str
    pid: int
    started: float

    def alive(self) -> bool:
        """Whether the flow's process still runs."""
        return is_alive(self.pid, self.started)


@contextmanager
def recorded(name: str, flow_run: str, mlflow_run: str, folder: Path) -> Iterator[None]:
    """Keep a record while the block runs, and at its end kill what the run started and left running."""
    here = psutil.Process()
    record = Record(
        name, flow_run, mlflow_run, str(folder), socket.gethostname(), here.pid, here.create_time()
    )
    path = state_folder("runs") / f"{flow_run}.json"
    write_json(path, asdict(record))
    try:
        yield
    finally:
        end_processes(mlflow_run)
        path.unlink(missing_ok=True)


def living() -> list[Record]:
    """The records of runs that are at work on this machine."""
    return [record for record in _records() if record.alive()]


def clear_dead() -> list[Record]:
    """End what killed runs left behind and mark them in Prefect and MLflow; returns their records."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed, State

    from flows.links import publish_state

    dead = [record for record in _records() if not record.alive()]
    for record in dead:
        end_processes(record.mlflow_run)
        with suppress(ObjectNotFound), get_client(sync_client=True) as client:
            crashed: State = Crashed(
                message="its process was killed; the next run goes on from its checkpoints"
            )
            if not client.read_flow_run(UUID(record.flow_run)).state.is_final():  # type: ignore[union-attr]
                client.set_flow_run_state(UUID(record.flow_run), crashed, force=True)
        with suppress(MlflowException):
            end_stage_runs(record.mlflow_run)
            MlflowClient().set_terminated(record.mlflow_run, "KILLED")
        state = read_state(Path(record.folder))
        if state and state.state == "running":
            state.state = "killed"
            publish_state(state, record.flow_run, record.mlflow_run, Path(record.folder))
        (_folder() / f"{record.flow_run}.json").unlink(missing_ok=True)
    return dead


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


def is_alive(pid: int, started: float) -> bool:
    """Whether the process with this number still runs and is the one that started at that time."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
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
