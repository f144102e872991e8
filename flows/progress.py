"""How far a training is: its events as a progress artifact in Prefect, and now and then a line in the log.

A stage appends its events to a file that the flow names (`tasks/runtime/stage.py`), a JSON object a line:

    {"stage": "ppo", "step": 10, "steps": 35, "left": 12.5, "figures": {"loss": 0.69}}

`left` is in seconds, or null while nobody knows. A thread follows the file, so that a server that is away
holds up neither the training nor its log.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

SHOW_SECONDS = 3.0  # between two updates of the artifact
LOG_SECONDS = 10.0  # between two lines in the log
END_SECONDS = 5.0  # that the last update may take


@contextmanager
def progress_shown(stage: str, events: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Show the events of a stage that come while the block runs; a stage without events gets no artifact.

    Args:
        stage: the stage's name.
        events: the file that the stages of a run append to.
        log: takes a line of text.
    """
    events.parent.mkdir(parents=True, exist_ok=True)
    events.touch()
    ended = threading.Event()
    # The artifact belongs to the task that runs here, which the thread knows by the copied context.
    follow = (_follow, stage, events, events.stat().st_size, log, ended)
    thread = threading.Thread(target=copy_context().run, args=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(END_SECONDS)


def _follow(stage: str, path: Path, start: int, log: Callable[[str], None], ended: threading.Event) -> None:
    """Show the newest event of the stage every few seconds, and the last one when the stage has ended."""
    artifact, logged, last = None, -LOG_SECONDS, False
    with path.open(encoding="utf-8") as handle:
        handle.seek(start)
        rest = ""
        while not last:
            last = ended.wait(SHOW_SECONDS)
            *lines, rest = (rest + handle.read()).split("\n")
            event = newest(lines, stage)
            if event is None:
                continue
            text = progress_text(event)
            if last or time.monotonic() - logged >= LOG_SECONDS:
                log(text)
                logged = time.monotonic()
            artifact = _show(artifact, stage, 100 * event["step"] / event["steps"], text)


def newest(lines: list[str], stage: str) -> dict[str, Any] | None:
    """The last event of a stage among these lines."""
    for line in reversed(lines):
        with suppress(ValueError):
            event = json.loads(line)
            if event["stage"] == stage and event["steps"]:
                return event
    return None


def progress_text(event: Mapping[str, Any]) -> str:
    """An event in a line: `ppo: step 10 of 35, loss 0.69, 0:00:12 left`."""
    parts = [f"{event['stage']}: step {event['step']} of {event['steps']}"]
    parts += [f"{name} {value:.4g}" for name, value in event["figures"].items()]
    if event["left"] is not None:
        parts.append(f"{timedelta(seconds=round(event['left']))} left")
    return ", ".join(parts)


def _show(artifact: Any, stage: str, percent: float, text: str) -> Any:
    """Create or update the artifact; returns its id, or what it was where the server did not answer."""
    # It is tried once only, because the next update will do.
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), suppress(httpx.HTTPError):
        if artifact is None:
            return create_progress_artifact(percent, key=f"progress-{stage}", description=text)
        update_progress_artifact(artifact, percent, description=text)
    return artifact
