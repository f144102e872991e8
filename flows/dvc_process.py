"""The process in which DVC runs the stages of a run, as the flow sees it: orders in, output and a state out.

Loading DVC takes a second, so all stages share the process; flows/dvc_runner.py is the program in it.
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
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import yaml

from tasks.runtime.places import KNOWN
from tasks.runtime.process import defaults
from tasks.runtime.stage import PROGRESS

if TYPE_CHECKING:
    from dvc.stage.loader import StageLoader

RUNNER = Path(__file__).with_name("dvc_runner.py")
EVENTS = Path(".dvc/tmp/progress.jsonl")  # in a worktree: the events of its trainings
STOP_SECONDS = 5.0  # a stopped stage may take this long to end by itself
# What libraries say of themselves is not for the person who follows a run.
QUIET = {
    "PYTHONWARNINGS": "ignore",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # those of transformers, which loads and saves weights
}
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Ended:
    """How a stage ended: its state in Prefect, and what DVC says of a failure."""

    state: str
    error: str = ""


class Dvc:
    """Runs stages as `dvc repro --single-item` does, in a process that starts with the first that must run.

    The process works in the working directory and leads a group of its own. The group ends with the block or
    with an exception in a stage, and with it whatever the stage has started.
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
            return False  # running the stage will say what is wrong

    def _load(self) -> StageLoader:
        """The stages of dvc.yaml with their entries in dvc.lock or else in the checkout's."""
        from dvc.dvcfile import PROJECT_FILE, ProjectFile
        from dvc.repo import Repo
        from dvc.stage.loader import StageLoader

        from flows.dvc_runner import verify_cache

        verify_cache()
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

    def repro(self, name: str, read: Callable[[str], None], force: bool = False) -> Ended:
        """Run a stage unless nothing has changed.

        Args:
            read: is called with each line that the stage prints.
            force: run it also where nothing has changed.
        """
        self._forget()
        process = self._process or self._start()
        try:
            if process.stdin:
                process.stdin.write(json.dumps({"stage": name, "force": force}).encode() + b"\n")
                process.stdin.flush()
            for line in self._lines:
                if line.startswith(self._mark):
                    return Ended(**json.loads(line.removeprefix(self._mark)))
                read(line)
        except BaseException:  # the run is cancelled: the stage ends at once, before Prefect hears of it
            self.end()
            raise
        self.end()  # it was killed
        return Ended("Failed", f"DVC's process exited with {process.returncode}")

    def _start(self) -> subprocess.Popen[bytes]:
        self._mark = f"{secrets.token_hex(8)} "
        # `cmd: python -m ...` has to be this Python, also when its environment is not activated
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        own = {"PYTHONUNBUFFERED": "1", "PATH": path, PROGRESS: str(EVENTS.resolve())}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(RUNNER), self._mark.strip()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=QUIET | os.environ | defaults() | own,
            start_new_session=True,
        )
        self._lines = readable(self._process.stdout)
        return self._process


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process group: DVC does not pass a signal on to the training that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)  # DVC may be gone and the training still there
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


def readable(stream: IO[bytes] | None) -> Iterator[str]:
    """Text lines of a byte stream, without terminal codes, blank lines, and what a terminal would overwrite:
    a line that ends in a carriage return is a progress bar on its way."""
    if stream is None:
        return
    for raw in io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline=""):
        line = _ANSI.sub("", raw).rstrip()
        if line and not raw.endswith("\r"):
            yield line
