"""The Prefect task that runs one stage of dvc.yaml.

DVC decides whether the stage has to run and keeps what it wrote; the task makes visible what happens: its
name is the stage, its version the stage key, its log the output of the stage, its state one of Completed,
`Up to date` (nothing changed), `Restored` (DVC had the outputs of this key) or Failed with the stage's
error line. What DVC does not know is whether the registry still has what the stage `register` put there: the
task asks, and runs the stage again where it does not.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import yaml
from prefect import State, Task, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.states import Completed, Failed

from flows.progress import Progress
from tasks.graph import stage_key
from tasks.runtime.places import KNOWN
from tasks.runtime.process import defaults
from tasks.runtime.registry import standing

if TYPE_CHECKING:
    from dvc.stage.loader import StageLoader

PROGRESS_SECONDS = 10.0  # between two lines of a progress bar in the log
RUNNER = Path(__file__).with_name("dvc_runner.py")
STOP_SECONDS = 5.0  # a stopped stage may take this long to end by itself

_UP_TO_DATE = re.compile(r"^(Stage )?'.*' didn't change, skipping")
_RESTORED = re.compile(r"^Stage '.*' is cached - skipping run, checking out outputs")
_CHATTER = re.compile(
    r"^(To track the changes with git|To enable auto staging|\s*git add |\s*dvc config core\.autostage"
    r"|Use `dvc push`|Updating lock file|Generating lock file|Data and pipelines are up to date"
    r"|\S+ \S+ INFO mlflow\.|(Writing model shards|Loading weights):|\W{1,2} View (run|experiment) )"
)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def stage_task(name: str, dvc: Dvc) -> Task[[], State]:
    """The task of one stage. Make it when the stages before have run: the key hashes their outputs.

    Raises:
        StageError: an input is missing.
    """
    key = stage_key(name)

    def run() -> State:
        context = TaskRunContext.get()
        assert context
        # not as tags of the task: for those Prefect asks the server for a slot each before every task
        context.task_run.tags.append(f"key:{key}")
        return run_stage(name, key, dvc)

    return Task(
        run,
        name=name,
        task_run_name=name,
        version=key,
        cache_policy=NO_CACHE,  # DVC is the only cache
        persist_result=False,
    )


def run_stage(name: str, key: str, dvc: Dvc) -> State:
    """Run a stage through DVC, pass its output on to the log, and return how it ended."""
    logger = get_run_logger()
    started = time.monotonic()
    outcome = "Completed"
    said: deque[str] = deque(maxlen=50)
    unchanged = dvc.unchanged(name)  # found out here, a process of its own would take a second longer
    lost = _lost(name) if unchanged else ""
    if unchanged and not lost:
        return Completed(name="Up to date", message=f"Up to date; key {key}")
    progress = Progress(name)

    def read(line: str) -> None:
        nonlocal outcome
        if _UP_TO_DATE.match(line):
            outcome = "Up to date"
        elif _RESTORED.match(line):
            outcome = "Restored"
        if not _CHATTER.match(line):
            logger.info(line)
            progress.read(line)
            said.append(line)

    code = 0
    if not unchanged:
        code = dvc.repro(name, read)
        lost = _lost(name) if code == 0 and outcome != "Completed" else ""
    if lost:
        logger.info(f"{name}: the registry has no {lost}; registering it again")
        outcome = "Completed"
        code = dvc.repro(name, read, force=True)
    seconds = time.monotonic() - started
    if code != 0:
        return Failed(message=error_line(name, list(said), code))
    create_markdown_artifact(
        key=f"stage-{name}",
        description=f"{name}: {outcome.lower()}",
        markdown=_summary(name, key, outcome, seconds),
    )
    return Completed(name=outcome, message=f"{outcome} in {seconds:.1f} s; key {key}")


def _lost(name: str) -> str:
    """What the registry no longer has of the result here; empty for all other stages."""
    there = standing() if name == "register" else None
    return there.lost if there else ""


class Dvc:
    """Runs stages by `dvc repro --single-item`, all of them in one process: loading DVC takes a second.

    The process starts with the first stage, in the working directory, and leads a group of its own. The group
    ends with the block or with an exception in a stage, and with it whatever the stage has started.
    """

    def __init__(self) -> None:
        self._stages: StageLoader | None = None  # with dvc.yaml and dvc.lock as they were read
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: Iterator[str] = iter(())
        self._mark = ""

    def __enter__(self) -> Dvc:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._forget()

    def unchanged(self, name: str) -> bool:
        """Whether the stage need not run: its command, parameters and inputs are those that its entry in
        dvc.lock has, or in the checkout's, and its outputs are there or come from DVC's cache."""
        from dvc.exceptions import DvcException

        try:
            stages = self._stages or self._load()
            with stages.repo.lock:
                stage = stages[name]
                if stage.changed_stage() or stage.changed_deps():
                    return False
                if stage.changed_outs():
                    if not stage.outs_cached():
                        return False
                    stage.checkout(force=True)
                    if stage.changed_outs():
                        stage.remove_outs()
                        return False
                if name not in stages.dvcfile.lockfile_contents.get("stages", {}):
                    stage.dump(update_pipeline=False)  # the checkout's entry, which is now this run's too
                return True
        except DvcException:
            return False  # `dvc repro` will say what is wrong

    def _load(self) -> StageLoader:
        """The stages of dvc.yaml with their entries in dvc.lock or else in the checkout's."""
        from dvc.dvcfile import PROJECT_FILE, ProjectFile
        from dvc.repo import Repo
        from dvc.stage.loader import StageLoader

        logging.getLogger("dvc.dvcfile").setLevel(logging.WARNING)  # it would name each entry that is written
        file = ProjectFile(Repo(), PROJECT_FILE)
        known = yaml.safe_load(KNOWN.read_text()) if KNOWN.exists() else {}
        own = file.lockfile_contents.get("stages", {})
        self._stages = StageLoader(file, file.contents, {"stages": known.get("stages", {}) | own})
        return self._stages

    def _forget(self) -> None:
        if self._stages:
            self._stages.repo.close()
        self._stages = None

    def end(self) -> None:
        """End the process and all that it started; the next stage gets a new one."""
        if self._process:
            _stop(self._process)
        self._process = None

    def repro(self, name: str, read: Callable[[str], None], force: bool = False) -> int:
        """Run a stage unless nothing has changed; DVC's exit code.

        Args:
            read: is called with each line that DVC or the stage says.
            force: run it also where nothing has changed.
        """
        self._forget()
        process = self._process or self._start()
        try:
            if process.stdin:
                process.stdin.write(f"{name}{' --force' if force else ''}\n".encode())
                process.stdin.flush()
            for line in self._lines:
                if line.startswith(self._mark):
                    return int(line.removeprefix(self._mark))
                read(line)
        except BaseException:  # the run is cancelled: at once, before anybody is told
            self.end()
            raise
        self.end()  # it was killed
        return process.returncode

    def _start(self) -> subprocess.Popen[bytes]:
        self._mark = f"{secrets.token_hex(8)} "
        # `cmd: python -m ...` has to be this Python, also when its environment is not activated
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(RUNNER), self._mark.strip()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # warnings of libraries at their own code are not for the person who follows the run
            env={
                "PYTHONWARNINGS": "ignore",
                **os.environ,
                **defaults(),
                "PYTHONUNBUFFERED": "1",
                "PATH": path,
            },
            start_new_session=True,
        )
        self._lines = readable(self._process.stdout)
        return self._process


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process group: dvc does not pass a signal on to the training that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)  # dvc may be gone and the training still there
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


def readable(stream: IO[bytes] | None) -> Iterator[str]:
    """Text lines of a byte stream, without terminal codes and blank lines.

    A line that ends in a carriage return is a progress bar on its way: one in `PROGRESS_SECONDS` passes.
    """
    if stream is None:
        return
    shown = -PROGRESS_SECONDS
    for raw in io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline=""):
        line = _ANSI.sub("", raw).rstrip()
        if not line:
            continue
        if raw.endswith("\r"):
            if time.monotonic() - shown < PROGRESS_SECONDS:
                continue
            shown = time.monotonic()
        yield line


def error_line(name: str, said: list[str], code: int) -> str:
    """One line that says why a stage failed: its own `error:` line, else the last thing that it said."""
    for line in reversed(said):
        if line.startswith("error: "):
            return f"{name}: {line.removeprefix('error: ')}"
    dvc_says = next((line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")), "")
    last = next((line for line in reversed(said) if not line.startswith("ERROR: ")), "")
    return f"{name}: {'; '.join(filter(None, [last.strip(), dvc_says])) or f'exit code {code}'}"


def _summary(name: str, key: str, state: str, seconds: float) -> str:
    """What the UI shows of a stage that ended well."""
    rows = {"state": state, "seconds": f"{seconds:.1f}", "stage key": key}
    with suppress(OSError, ValueError):
        record = json.loads(Path(f"runs/{name}.json").read_text())
        rows |= {"MLflow run": record["run_id"], "git commit": record["git_commit"], **record["figures"]}
    return "| | |\n|---|---|\n" + "\n".join(f"| {what} | {value} |" for what, value in rows.items())
