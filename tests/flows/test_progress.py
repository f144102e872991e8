"""The events of a training become a progress artifact of its task and a line in the log now and then."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import PATIENCE

from flows import progress

Shown = list[tuple[float, str]]


@pytest.fixture
def artifacts(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What the artifact showed, in its order."""
    shown: Shown = []

    def create(percent: float, key: str, description: str) -> str:
        assert key == "progress-ppo"
        shown.append((percent, description))
        return "id"

    def update(artifact: str, percent: float, description: str) -> None:
        assert artifact == "id"
        shown.append((percent, description))

    monkeypatch.setattr(progress, "create_progress_artifact", create)
    monkeypatch.setattr(progress, "update_progress_artifact", update)
    monkeypatch.setattr(progress, "SHOW_SECONDS", 0.05)
    return shown


def append(events: Path, step: int, **changes: Any) -> None:
    event = {"stage": "ppo", "step": step, "steps": 40, "left": 12.4, "figures": {"loss": 0.693147}}
    with events.open("a") as handle:
        handle.write(json.dumps(event | changes) + "\n")


def until(shown: Shown, count: int) -> None:
    end = time.monotonic() + PATIENCE
    while len(shown) < count:
        assert time.monotonic() < end, shown
        time.sleep(0.01)


def test_events_are_shown_while_the_stage_runs_and_the_last_when_it_ended(
    tmp_path: Path, artifacts: Shown
) -> None:
    events, log = tmp_path / "new/events.jsonl", []
    with progress.progress_shown("ppo", events, log.append):
        append(events, 10)
        until(artifacts, 1)
        append(events, 20, left=None, figures={})
        until(artifacts, 2)
        append(events, 40, stage="sft")
        with events.open("a") as handle:
            handle.write('half a line, of a process that was killed\n{"stage": "ppo"')
        time.sleep(0.2)
        with events.open("a") as handle:
            handle.write(', "step": 40, "steps": 40, "left": 0.0, "figures": {"KL": 4.0}}\n')
    assert artifacts == [
        (25.0, "ppo: step 10 of 40, loss 0.6931, 0:00:12 left"),
        (50.0, "ppo: step 20 of 40"),
        (100.0, "ppo: step 40 of 40, KL 4, 0:00:00 left"),
    ]
    assert log[0] == artifacts[0][1]  # the others come sooner than a line may
    with progress.progress_shown("ppo", events, log.append):
        pass  # the events of an earlier time are not this one's
    assert len(artifacts) == 3


def test_a_stage_without_events_has_no_artifact(tmp_path: Path, artifacts: Shown) -> None:
    with progress.progress_shown("ppo", tmp_path / "events.jsonl", print):
        pass
    assert artifacts == []


def test_a_server_that_is_away_ends_nothing(
    tmp_path: Path, artifacts: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        tried.append(1)
        raise httpx.ConnectError("away")

    tried: list[int] = []
    create = progress.create_progress_artifact
    monkeypatch.setattr(progress, "create_progress_artifact", away)
    with progress.progress_shown("ppo", tmp_path / "events.jsonl", print):
        append(tmp_path / "events.jsonl", 10)
        end = time.monotonic() + PATIENCE
        while not tried and time.monotonic() < end:
            time.sleep(0.01)
        monkeypatch.setattr(progress, "create_progress_artifact", create)
        append(tmp_path / "events.jsonl", 20)
    assert [percent for percent, _ in artifacts] == [50.0]
