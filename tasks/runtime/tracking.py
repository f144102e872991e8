"""The tracking store that all ways of running share, and the run of a whole pipeline in it."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from rlhf.data.private import private_file, private_folder
from tasks.runtime.errors import StageError
from tasks.runtime.faults import TRACKING, refuse_bad_sqlite, tracking_fault
from tasks.runtime.places import git_commit, state_dir, state_folder

EXPERIMENT = "rlhf-pipeline"
FINAL = "final/"  # opens the names of a run's final figures in MLflow, which are no points of its curves
PARENT_RUN = "RLHF_PARENT_RUN"  # not MLFLOW_RUN_ID: that one beats parent_run_id (mlflow#15713)


def store_uri() -> str:
    """The address of the tracking store: the one that the environment names, or a database of our own."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{state_dir() / 'mlflow.db'}"


def connect() -> None:
    """Point MLflow at the tracking store that a person, `dvc repro` and the flow share.

    Raises:
        DataError, StageError: the store's database is damaged, locked, or cannot be written.
    """
    uri = store_uri()
    if uri.startswith("sqlite:///"):
        refuse_bad_sqlite(Path(uri.removeprefix("sqlite:///")), TRACKING)
    try:
        _connect()
    except Exception as error:
        if told := tracking_fault(error):
            raise StageError(told) from error
        raise


def _connect() -> None:
    import mlflow
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs what it raises, too
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # A stage reads a few kilobytes of an earlier run; a bar for each would be most of its log.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Curves in batches of a second. Without this the end of a training waits two seconds for an empty queue.
    os.environ.setdefault("MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS", "1")
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        state = state_folder()
        with suppress(OSError):  # what is wrong with the disk, the store says better
            private_file(state / "mlflow.db")
            private_folder(state / "mlartifacts")
        mlflow.set_tracking_uri(store_uri())
        if MlflowClient().get_experiment_by_name(EXPERIMENT) is None:
            MlflowClient().create_experiment(EXPERIMENT, artifact_location=(state / "mlartifacts").as_uri())
    mlflow.set_experiment(EXPERIMENT)
    mlflow.set_system_metrics_sampling_interval(5)


def parent_run() -> str | None:
    """The MLflow run of the whole pipeline: the flow's, or one for each `dvc repro`; None by hand."""
    if os.environ.get(PARENT_RUN):
        return os.environ[PARENT_RUN]
    process = dvc_command()
    return _run_of_process(f"{process.pid}-{process.create_time():.0f}") if process else None


def dvc_command() -> psutil.Process | None:
    """The `dvc` command above this process."""
    for process in psutil.Process().parents():
        command = process.cmdline()
        if any(Path(part).name == "dvc" for part in command[:3]) or command[1:3] == ["-m", "dvc"]:
            return process
    return None


def _run_of_process(execution: str) -> str:
    """The parent run of a `dvc repro`, which its first stage opens; `execution` names the process."""
    import mlflow
    from mlflow import MlflowClient

    runs = mlflow.search_runs(
        experiment_names=[EXPERIMENT], filter_string=f"tags.execution = '{execution}'", output_format="list"
    )
    if runs:
        return runs[0].info.run_id
    name = f"dvc-repro-{time.strftime('%Y%m%d-%H%M%S')}"
    started = start_parent_run(name, MlflowClient(), execution)
    MlflowClient().set_terminated(started, "FINISHED")  # nobody is left to close it when dvc ends
    return started


def start_parent_run(name: str, client: Any, execution: str) -> str:
    """Open a run for a whole pipeline execution and return its id; the stages' runs are its children.

    The caller closes it.
    """
    experiment = client.get_experiment_by_name(EXPERIMENT)
    tags = {"mlflow.runName": name, "execution": execution, "git_commit": git_commit(), "stage": "pipeline"}
    started = client.create_run(experiment.experiment_id, tags=tags, run_name=name)
    return started.info.run_id
