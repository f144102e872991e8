"""Progress of a training as events, and as lines of the file that the flow reads."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Quiet
from tiny_ppo import Stop, trainer_of, words_tokenizer

from rlhf.settings import Settings
from rlhf.training import progress
from rlhf.training.loop import train
from rlhf.training.progress import ProgressEvent


def events_of(folder: Path, stop: int | None = None) -> list[ProgressEvent]:
    """The events of a PPO run of two updates, eight steps."""
    events: list[ProgressEvent] = []
    trainer = trainer_of(words_tokenizer(), folder, callbacks=[Stop(stop)] if stop else None)
    try:
        train(trainer, progress=events.append)
    except KeyboardInterrupt:
        assert stop
    return events


def test_events_tell_steps_seconds_left_and_the_last_figures(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    first, *later, last = events_of(tmp_path)
    assert first == ProgressEvent(step=0, steps=8, left=None, figures={})
    assert [event.step for event in later] == list(range(1, 9))
    assert all(event.left >= 0 for event in later)
    assert later[3].figures.keys() == {"reward", "KL"}
    assert later[3].figures["KL"] == 0  # of the rollout before the first step
    assert (last.step, last.left) == (8, 0.0)
    assert last.figures["KL"] != 0


def test_there_is_one_event_a_second_at_most_and_always_the_last(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 1000.0)
    assert [event.step for event in events_of(tmp_path)] == [0, 8]


def test_a_resumed_training_begins_at_its_checkpoint(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    assert max(event.step for event in events_of(tmp_path, stop=6)) < 8
    assert [event.step for event in events_of(tmp_path)] == [4, 5, 6, 7, 8, 8]


def test_a_stage_writes_a_line_an_event_where_the_flow_asks_for_it(tmp_path: Path, monkeypatch) -> None:
    stage = Quiet("ppo", Settings(), key="test", run_id="test")
    event = ProgressEvent(step=10, steps=35, left=12.5, figures={"reward": 0.69})
    monkeypatch.delenv("RLHF_PROGRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    stage.progress(event)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("RLHF_PROGRESS", str(tmp_path / "progress.jsonl"))
    stage.progress(event)
    stage.progress(ProgressEvent(step=35, steps=35, left=0.0, figures={}))
    rows = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    assert rows[0] == {"stage": "ppo", "step": 10, "steps": 35, "left": 12.5, "figures": {"reward": 0.69}}
    assert [row["step"] for row in rows] == [10, 35]
    monkeypatch.setenv("RLHF_PROGRESS", str(tmp_path))  # a folder: a training goes on without being watched
    stage.progress(event)
