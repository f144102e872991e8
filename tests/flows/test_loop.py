"""A round of the loop begins with enough new labels, and uses every label once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from label_app import answer, candidates, filled, person
from prefect import State
from prefect.events import DeploymentEventTrigger
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker

import flows.loop
from labeling.contracts import rows_hash, tables
from labeling.items import Filling, add_items
from labeling.projects import add_project, project_id
from labeling.queues import add_queue, queue_row
from labeling.store import Store
from labeling.versions import cut_version
from rlhf.settings import Settings, check_settings, load_settings
from tasks.runtime.tracking import start_parent_run


def test_a_round_uses_every_label_and_none_twice(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Too few labels wait; a failed round comes again with what came since, a killed one as it was."""
    import mlflow

    store = Store(f"sqlite:///{tmp_path / 'labels.db'}")
    monkeypatch.setenv("LABELING_DB", str(store.engine.url))
    with store.write() as tx:
        add_project(tx, "p", "test")
    ann, queue = person(store, "ann"), filled(store, "rank", candidates(9))
    settings = check_settings({"collect": {"labels": {"project": "p"}}}, "test")

    def label(number: int) -> None:
        for _ in range(number):
            answer(store, ann, queue, ranks=[1, 2])

    def go(minimum: int) -> State:
        return flows.loop.feedback(settings, minimum, 0, return_state=True)

    def used() -> list[tuple[int, int, int]]:
        return [(this.version, this.new, this.labels) for this in flows.rounds.rounds(store, "p")]

    label(2)
    state = go(3)
    assert (state.name, state.message) == ("Waiting", "2 of 3 new labels in project 'p'")

    Path("data.txt").write_text("bad")
    state = go(2)
    assert state.is_failed()
    assert state.message == "version 1 of the labels: prepare: data.txt: row 3: no number; write one"
    Path("data.txt").write_text("1")
    label(1)
    assert go(4).name == "Waiting"
    assert go(3).name == "Not promoted"
    assert used() == [(2, 3, 3)]
    [tree] = Path(".runs").glob("p-labels-2*")
    collect = load_settings(tree / "params.yaml").collect
    with store.read() as tx:
        rankings = tables(tx, "p", 2)["comparisons"]
    assert (collect.labelers, collect.labels.version) == ("store", 2)
    assert collect.labels.sha256 == rows_hash(rankings)
    assert len(rankings) == 3

    label(1)
    with store.write() as tx:
        assert cut_version(tx, "p", "test") == 3
    killed = start_parent_run("p-labels-3", mlflow.MlflowClient(), "execution")
    for tag, value in (("labels_project", "p"), ("labels_version", "3")):
        mlflow.MlflowClient().set_tag(killed, tag, value)
    mlflow.MlflowClient().set_terminated(killed, "KILLED")
    label(2)
    assert go(9).is_completed()
    assert used() == [(2, 3, 3), (3, 1, 4)]
    assert go(3).message == "2 of 3 new labels in project 'p'"
    store.close()


def test_the_event_of_enough_labels_is_what_starts_a_round(
    small_repository: Path, services: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLHF_STATE", str(services))
    monkeypatch.setenv("LABELING_DB", f"sqlite:///{small_repository / 'labels.db'}")
    project = Settings().collect.labels.project
    store = Store(os.environ["LABELING_DB"])
    with store.write() as tx:
        add_project(tx, "p", "test")
        add_project(tx, project, "test")
        add_queue(tx, project_id(tx, project), "rank", "rank", "test")
        row = queue_row(tx, project, "rank")
        add_items(tx, row, candidates(2), Filling(), "test")
    answer(store, person(store, "ann"), row.id, ranks=[1, 2])
    store.close()
    worker = EventsWorker.instance(AssertingEventsClient)
    monkeypatch.setattr(EventsWorker, "instance", lambda *_: worker)
    for minimum in (2, 1):
        state = flows.loop.watch_labels(project, minimum, return_state=True)
        assert state.message == f"1 of {minimum} new labels in project {project!r}"
    worker.drain()
    [event] = [event for event in worker._client.events if event.event == flows.loop.ENOUGH]
    assert event.payload == {"new_labels": 1}

    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    [entry] = [entry for entry in deployments if entry["name"] == "feedback"]
    [trigger] = [DeploymentEventTrigger.model_validate(trigger) for trigger in entry["triggers"]]
    assert trigger.expect == {event.event}
    assert trigger.match.root == {"prefect.resource.id": event.resource.id}
