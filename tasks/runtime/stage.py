"""What every stage has: its settings, its key, its MLflow run, its checkpoints, and one-line errors.

A stage is a function `main(stage: Stage) -> dict` (its key figures) and ends with `run("name", main)`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psutil

from rlhf.data.errors import Diverged
from rlhf.data.files import write_json
from rlhf.settings import Settings, SettingsError, base_name, load_settings
from tasks.graph import dvc_hash, flat, stage_key, stage_params, stages
from tasks.runtime.declared import Declared
from tasks.runtime.errors import StageError, one_line_errors
from tasks.runtime.faults import RATES, killed_line, memory_advice, memory_line, out_of_memory
from tasks.runtime.past_profiles import Profiles, last_profiles, record_profiles
from tasks.runtime.places import git_commit, main_checkout
from tasks.runtime.preflight import contradictions, refuse_missing_config
from tasks.runtime.tracking import FINAL, PARENT_RUN, connect, dvc_command, parent_run

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.utils.async_logging.run_operations import RunOperations

    from rlhf.training.progress import ProgressEvent

_WORKER_OF = "RLHF_WORKER_OF"  # the MLflow run of the stage whose training process this is
_AT_ONCE = 1000  # the most metrics that MLflow takes in one call
PROGRESS = "RLHF_PROGRESS"  # the file that takes the events of trainings, a JSON object a line


@dataclass
class Stage:
    """One execution of a stage.

    Attributes:
        name: the stage's name in dvc.yaml.
        settings: the validated parameters that dvc.yaml declares for the stage; reading another one raises.
        key: hash of the stage's code, parameters and inputs.
        run_id: the stage's MLflow run.
        record: what the stage adds to `runs/<stage>.json`, besides its figures.
    """

    name: str
    settings: Settings
    key: str
    run_id: str
    record: dict[str, Any] = field(default_factory=dict)
    _points: list[Metric] = field(default_factory=list)  # of all curves so far
    _sent: list[RunOperations] = field(default_factory=list)  # how each was logged

    @property
    def checkpoints(self) -> Path:
        """Folder for this key's checkpoints: git-ignored, no DVC output, so that a killed stage can go on.

        It is in the main checkout, whichever worktree the stage runs in, unless `RLHF_CHECKPOINTS` names
        another place: the next run goes on where this one was killed.
        """
        root = os.environ.get("RLHF_CHECKPOINTS") or main_checkout() / "checkpoints"
        return Path(root) / self.name / self.key

    def log_curve(self, values: dict[str, float], step: int) -> None:
        """Log points of curves at a step; a tracking server that is away does not hold up the training."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        # mlflow.log_metrics would first read the run, and wait for the server to do so.
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        if sent := MlflowClient().log_batch(self.run_id, metrics, synchronous=False):
            self._sent.append(sent)
        self._points += metrics

    def finish_curves(self) -> None:
        """Have every point of the curves in the store.

        MLflow only prints where a batch could not be logged, because the store was locked or away for longer
        than its patience, and does not say which points were in it. So all are logged again; the store takes
        none twice.
        """
        import mlflow
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        if not self._sent:
            return
        mlflow.flush_async_logging()
        try:
            for sent in self._sent:
                sent.wait()
        except MlflowException:
            for start in range(0, len(self._points), _AT_ONCE):
                MlflowClient().log_batch(self.run_id, self._points[start : start + _AT_ONCE])
        self._points, self._sent = [], []

    def progress(self, event: ProgressEvent) -> None:
        """Append an event of a training to the file that `RLHF_PROGRESS` names; without it, do nothing.

        A file that cannot be written ends no training: a line less is shown, and no result depends on it.
        """
        if path := os.environ.get(PROGRESS):
            line = json.dumps({"stage": self.name} | asdict(event))
            with suppress(OSError), open(path, "a") as handle:
                handle.write(line + "\n")

    def log_figures(self, values: Mapping[str, float | None]) -> None:
        """Log single numbers of this run as `final/<name>`; a figure that does not exist is left out.

        Under the name of a curve MLflow would draw such a number as a point of the curve, at step 0.
        """
        import mlflow

        mlflow.log_metrics({FINAL + name: float(v) for name, v in values.items() if v is not None})

    def log_tags(self, values: dict[str, str]) -> None:
        """Put tags on this run."""
        import mlflow

        mlflow.set_tags(values)

    def log_samples(self, rows: list[dict[str, Any]], name: str) -> None:
        """Log a table of texts as the artifact `name`.json, browsable in MLflow."""
        import mlflow
        import pandas as pd

        mlflow.log_table(pd.DataFrame(rows), artifact_file=f"{name}.json")

    def log_dataset(self, path: str, rows: Sequence[dict[str, Any]], context: str) -> None:
        """Log the rows of the file `path` as a dataset of this run.

        Its digest is DVC's hash, or for what this stage has written the MD5 of the file: dvc.lock still has
        the hash that the stage's outputs had when it ran before.
        """
        import mlflow
        import pandas as pd

        frame = pd.DataFrame(list(rows[:1000]))  # schema and profile only; the digest names the whole
        own = any(Path(path).is_relative_to(out) for out in stages()[self.name].get("outs", []))
        digest = (None if own else dvc_hash(path)) or _md5(path)
        dataset = mlflow.data.from_pandas(frame, name=Path(path).stem, digest=digest)
        mlflow.log_input(dataset, context=context, tags={"path": path, "rows": str(len(rows))})

    def compare_profiles(self, profiles: Profiles) -> tuple[str, Profiles] | None:
        """Leave the profiles of this version of the data on the run; see `past_profiles.last_profiles`."""
        record_profiles(self, profiles)
        return last_profiles(self, profiles)

    def log_artifact(self, path: str | Path) -> None:
        """Log a file or a folder."""
        import mlflow

        if Path(path).is_dir():
            mlflow.log_artifacts(str(path), artifact_path=Path(path).name)
        else:
            mlflow.log_artifact(str(path))


def _md5(path: str) -> str:
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()


def run(
    name: str,
    main: Callable[[Stage], Mapping[str, float | None] | None],
    stage_of: dict[str, str] | None = None,
    worker: Callable[[Stage], None] | None = None,
) -> None:
    """Run a stage as a command: `python -m tasks.<stage> [--traceback]`.

    A module of several stages passes `stage_of`: argument -> stage in dvc.yaml. A module that trains
    in several processes passes `worker`, which each process that `launch` starts runs in place of `main`.

    Writes `runs/<stage>.json` (MLflow run id, git revision, key figures). Bad input ends in one line and exit
    code 1.
    """
    doc = sys.modules["__main__"].__doc__ or ""
    parser = argparse.ArgumentParser(
        prog=f"python -m tasks.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Parameters come from params.yaml; `python -m rlhf.settings` lists them all.",
    )
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    if stage_of:
        parser.add_argument("what", choices=list(stage_of), help="what to run on")
    arguments = parser.parse_args()
    stage = stage_of[arguments.what] if stage_of else name
    with one_line_errors(arguments.traceback), faults_of_stage(stage):
        if worker and os.environ.get(_WORKER_OF):
            connect()
            working = Stage(name, stage_settings(name), stage_key(name), os.environ[_WORKER_OF])
            worker(working)
            working.finish_curves()
            return
        execute(stage, main)


@contextmanager
def faults_of_stage(name: str) -> Iterator[None]:
    """Say which setting to change where a training runs away or memory is short.

    Raises:
        StageError: one of both.
    """
    try:
        yield
    except Diverged as error:
        raise StageError(f"{error}; lower {RATES[name]}" if name in RATES else str(error)) from error
    except (MemoryError, RuntimeError, OSError) as error:
        if not out_of_memory(error):
            raise
        raise StageError(memory_line(name, load_settings(), error)) from error


def launch(stage: Stage, worker: Callable[[Stage], None], config: str | None) -> None:
    """Run the stage's worker here, or in `processes` processes of this machine through `accelerate launch`.

    Args:
        config: config file of accelerate; None for DDP on this machine.

    Raises:
        DataError: there is no such file.
        StageError: a process failed; its own line stands above.
    """
    settings = stage.settings
    if settings.processes == 1:
        worker(stage)
        return
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(settings.processes)]
    if config:
        refuse_missing_config(stage.name, config)
        command += ["--config_file", config]
    else:
        # Without a GPU, --multi_gpu starts processes on the CPU; --cpu would need MPI.
        command += ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--num_cpu_threads_per_process", str(settings.threads), "--main_process_port", "0"]
    done = subprocess.run(
        [*command, "-m", f"tasks.{stage.name}"], env={**os.environ, _WORKER_OF: stage.run_id}, check=False
    )
    if done.returncode == -signal.SIGKILL:
        raise StageError(killed_line(stage.name, load_settings()))
    if done.returncode:
        raise StageError(
            f"{stage.name}: a training process ended with exit code {done.returncode}, and why stands above; "
            f"one that was killed (signal 9) had no memory: {memory_advice(stage.name, load_settings())}"
        )


def refuse_contradictions(settings: Settings, name: str) -> None:
    """Refuse parameters that contradict each other before the first training.

    Under plain `dvc repro` this stage may be the first of all, so all stages are checked; by hand it runs
    alone. A flow has already checked the stages that it runs.

    Raises:
        SettingsError: there are some.
    """
    if os.environ.get(PARENT_RUN):
        return
    whole = dvc_command() is not None
    problems = [problem.text for problem in contradictions(settings) if whole or problem.stage == name]
    if problems:
        raise SettingsError(f"params.yaml: {problems[0]}")


def execute(name: str, main: Callable[[Stage], Mapping[str, float | None] | None]) -> None:
    """Run a stage inside its MLflow run; the body of `run`, and what tests call."""
    settings = load_settings()
    refuse_contradictions(settings, name)
    key = stage_key(name)
    started = time.time()
    import mlflow

    connect()
    parent = parent_run()
    whole = mlflow.get_run(parent).info.run_name if parent else ""
    tags = {"stage": name, "stage_key": key, "git_commit": git_commit(), "seed": str(settings.seed)}
    tags |= {"size": base_name(settings.base), "source": settings.ingest.source}
    with mlflow.start_run(
        # In a legend with the curves of several runs, the stage's name alone would name all of them.
        run_name=f"{name} {whole}".strip(),
        parent_run_id=parent,
        tags=tags,
        log_system_metrics=True,
    ) as active:
        stage = Stage(name, stage_settings(name), key, active.info.run_id)
        mlflow.log_params(flat(stage_params(name)))
        figures = main(stage) or {}
        stage.log_figures(figures)
        stage.finish_curves()
    record = {
        "run_id": stage.run_id,
        "git_commit": tags["git_commit"],
        "stage_key": key,
        "cost": stage_cost(),
    }
    record["figures"] = figures
    write_json(f"runs/{name}.json", stage.record | record)
    print(f"{name}: done in {time.time() - started:.1f} s", file=sys.stderr)


def stage_cost() -> dict[str, float]:
    """The cost of this process: `seconds` since it began, and `memory_mb`, its own or a child's peak."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = time.time() - psutil.Process().create_time()
    return {"seconds": round(seconds, 1), "memory_mb": round(peak / 1024, 1)}


def stage_settings(name: str) -> Settings:
    """The settings that a stage may read: those that its entry in dvc.yaml declares."""
    return cast(Settings, Declared(load_settings(), stages()[name].get("params", []), name))
