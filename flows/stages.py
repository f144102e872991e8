"""The Prefect task that runs one stage of dvc.yaml.

DVC decides whether the stage has to run and keeps what it wrote; the task makes visible what happens: its
name is the stage, its version the stage key, its log the output of the stage, its state one of Completed,
`Up to date` (nothing changed), `Restored` (DVC had the outputs of this key) or Failed with the stage's
error line. What DVC does not know is whether the registry still has what the stage `register` put there: the
task asks, and runs the stage again where it does not.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from prefect import State, Task, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.states import Completed, Failed

from flows.dvc_process import EVENTS, Dvc, Ended
from flows.findings import findings_markdown
from flows.progress import progress_shown
from rlhf.settings import load_settings
from tasks.graph import stage_key
from tasks.runtime.faults import full_disk, killed_line
from tasks.runtime.places import main_checkout
from tasks.runtime.registry import standing

EXITED = re.compile(r"exited with (-?\d+)\b")  # as DVC says it


def stage_task(name: str, dvc: Dvc) -> Task[[], State]:
    """The task of one stage. Make it when the stages before have run: the key hashes their outputs.

    Raises:
        StageError: an input is missing.
    """
    key = stage_key(name)

    def run() -> State:
        context = TaskRunContext.get()
        assert context
        # It is no tag of the task itself, because for each of those Prefect first asks the server for a slot.
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
    printed: deque[str] = deque(maxlen=50)
    unchanged = dvc.unchanged(name)  # asked here, because DVC's process would take a second longer
    lost = _lost(name) if unchanged else ""
    if unchanged and not lost:
        return Completed(name="Up to date", message=f"Up to date; key {key}")

    def read(line: str) -> None:
        logger.info(line)
        printed.append(line)

    with progress_shown(name, EVENTS, logger.info):
        ended = Ended("Up to date") if unchanged else dvc.repro(name, read)
        if ended.state in ("Up to date", "Restored") and (lost := _lost(name)):
            logger.info(f"{name}: the registry has no {lost}; registering it again")
            ended = dvc.repro(name, read, force=True)
    seconds = time.monotonic() - started
    findings = findings_markdown(name)
    if findings:
        create_markdown_artifact(
            key=f"findings-{name}", markdown=findings, description="What the rules found"
        )
    if ended.state == "Failed":
        return Failed(message=error_line(name, list(printed), ended.error))
    create_markdown_artifact(
        key=f"stage-{name}",
        description=f"{name}: {ended.state.lower()}",
        markdown=_summary(name, key, ended.state, seconds),
    )
    return Completed(name=ended.state, message=f"{ended.state} in {seconds:.1f} s; key {key}")


def _lost(name: str) -> str:
    """What the registry has lost of the result here; empty for every stage but `register`."""
    registered = standing() if name == "register" else None
    return registered.lost if registered else ""


def error_line(name: str, printed: list[str], error: str) -> str:
    """One line that says why a stage failed: its own `error:` line, else its last line and DVC's error.

    A process that was killed could not say anything, so that is told first.
    """
    ended = EXITED.search(error)
    number = _signal(int(ended[1])) if ended else None
    if number == signal.SIGKILL:
        return killed_line(name, load_settings())
    for line in reversed(printed):
        if line.startswith("error: "):
            return f"{name}: {line.removeprefix('error: ')}"
    if number:
        by = signal.Signals(number).name
        return f"{name}: its process was ended by {by}; the next run goes on from its last checkpoint"
    if fault := full_disk(error, Path.cwd(), main_checkout() / ".dvc/cache"):
        return f"{name}: {fault}"
    last = printed[-1].strip() if printed else ""
    return f"{name}: {'; '.join(filter(None, [last, error]))}"


def _signal(code: int) -> int | None:
    """The signal that ended a process, from its exit code or from that of a shell around it."""
    number = -code if code < 0 else code - 128
    return number if number in set(signal.Signals) else None


def _summary(name: str, key: str, state: str, seconds: float) -> str:
    """What the UI shows of a stage that ended well."""
    rows = {"state": state, "seconds": f"{seconds:.1f}", "stage key": key}
    with suppress(OSError, ValueError):
        record = json.loads(Path(f"runs/{name}.json").read_text())
        rows |= {"MLflow run": record["run_id"], "git commit": record["git_commit"], **record["figures"]}
    return "| | |\n|---|---|\n" + "\n".join(f"| {what} | {value} |" for what, value in rows.items())
