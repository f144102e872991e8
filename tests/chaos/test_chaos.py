"""The short form of `make chaos`, on a graph of three small stages under the real flow, DVC and Prefect.

Trainings that go wrong are in tests/rlhf/training, tests/rlhf/rl and tests/tasks/runtime/test_feasibility.py;
kills inside a training in test_kill_ppo.py, of worker and command in tests/flows/test_ended_processes.py;
damaged files of the cache in tests/flows/test_damaged_cache.py.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import chaos
import kill_job
import psutil
import pytest
import services_away
from conftest import PATIENCE
from flow_repository import GRAPH, write_graph
from lab import PHASES, Try
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from proxy import proxy
from storage import small_disk

STEP = """
import os, pathlib, signal, sys, time
import psutil
root, name, out = pathlib.Path("{root}"), *sys.argv[1:]
checkpoint = root / "checkpoints" / name
checkpoint.parent.mkdir(exist_ok=True)
if not checkpoint.exists():  # what is trained differs each time, so a second training would be seen
    checkpoint.write_text(os.urandom(8).hex())
(root / "at-work").write_text(name)
while (root / "hold").exists() and name == "train":
    time.sleep(0.05)
blow = root / "blows" / name
if blow.exists():
    target = blow.read_text()
    blow.unlink()
    family = [p for p in psutil.Process().parents() if any("dvc_runner" in word for word in p.cmdline())]
    for process in (family if target != "stage" else []) + ([psutil.Process()] if target != "dvc" else []):
        process.kill()
    time.sleep(2)
pathlib.Path(out).parent.mkdir(exist_ok=True)
pathlib.Path(out).write_text(checkpoint.read_text())
"""
THREE = {name: GRAPH[name] for name in ("ingest", "prepare", "train")}


@pytest.fixture
def killable(small_repository: Path) -> Path:
    """The small repository with stages that keep a checkpoint and die when they are told to."""
    Path("step.py").write_text(STEP.replace("{root}", str(small_repository)))
    Path("blows").mkdir()
    write_graph(THREE)
    return small_repository


def test_killed_stages_and_a_killed_dvc_change_no_byte(killable: Path, run: Any) -> None:
    import mlflow

    for name, target in {"ingest": "stage", "prepare": "dvc", "train": "both"}.items():
        (killable / "blows" / name).write_text(target)
    ended = [run() for _ in range(4)]
    assert [state.is_completed() for state, _, _ in ended] == [False, False, False, True]
    assert all(state.message.startswith(name) for (state, _, _), name in zip(ended, THREE, strict=False))
    for name, entry in THREE.items():
        made = Path(ended[-1][0].result(), entry["outs"][0]).read_text()
        assert made == (killable / "checkpoints" / name).read_text()
    with get_client(sync_client=True) as client:
        for _, tasks, flow_run in ended:
            assert client.read_flow_run(flow_run.id).state.is_final()
            assert all(task.state.is_final() for task in tasks.values())
    assert all(run.info.status != "RUNNING" for run in mlflow.search_runs(output_format="list"))
    left = [process for process in psutil.process_iter() if "step.py" in " ".join(_command(process))]
    assert psutil.wait_procs(left, timeout=PATIENCE)[1] == []


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize("mode", ["down", "failing"])
def test_prefect_away_in_a_stage_loses_nothing(killable: Path, run: Any, mode: Any) -> None:
    upstream = urlsplit(str(PREFECT_API_URL.value()))
    (killable / "hold").touch()

    def disturb() -> None:
        at_work = killable / "at-work"
        while not (ended.is_set() or (at_work.exists() and at_work.read_text() == "train")):
            time.sleep(0.05)
        opened.become(mode)
        (killable / "hold").unlink()
        time.sleep(2)
        opened.become("well")

    with proxy((str(upstream.hostname), int(upstream.port or 80))) as opened:
        away, ended = threading.Thread(target=disturb), threading.Event()
        away.start()
        try:
            with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{opened.port}/api"}):
                state, tasks, flow_run = run()
                for worker in (APILogWorker, EventsWorker):  # else they try again where nobody is any more
                    worker.drain_all()
        finally:
            ended.set()
            away.join()
    assert state.is_completed()
    assert {name: task.state_name for name, task in tasks.items()} == dict.fromkeys(THREE, "Completed")
    with get_client(sync_client=True) as client:
        shown = {note.key for note in client.read_artifacts() if note.flow_run_id == flow_run.id}
    assert {f"stage-{name}" for name in THREE} <= shown


@pytest.mark.skipif(
    not os.environ.get("RLHF_CHAOS"), reason="mounts a small disk; RLHF_CHAOS=1 runs it as root"
)
def test_a_full_disk_under_the_cache_ends_in_a_line_and_then_heals(killable: Path, run: Any) -> None:
    try:
        with small_disk(killable / ".dvc/cache", "16k") as remount:
            state, _, _ = run()
            assert state.is_failed()
            assert "the disk is full" in str(state.message)
            assert "\n" not in str(state.message)
            remount("size=16m")
            assert run()[0].is_completed()
    except subprocess.CalledProcessError:
        pytest.skip("this machine lets nobody mount a disk")


def test_moments_are_spread_over_phases_targets_and_services() -> None:
    blows = [blow for cycle in kill_job.cycles(52, seed=1) for blow in cycle]
    assert {phase: sum(blow.phase == phase for blow in blows) for phase in PHASES} == dict.fromkeys(PHASES, 4)
    assert {target: sum(blow.target == target for blow in blows) for target in kill_job.TARGETS} == (
        dict.fromkeys(kill_job.TARGETS, 13)
    )
    assert kill_job.cycles(8, seed=1) == kill_job.cycles(8, seed=1) != kill_job.cycles(8, seed=2)
    for cycle in kill_job.cycles(52, seed=1):
        assert [PHASES.index(blow.phase) for blow in cycle] == sorted(
            PHASES.index(blow.phase) for blow in cycle
        )
    planned = services_away.plan(24, seed=1)
    assert len({(service, mode) for service, mode, _ in planned}) == 12


def test_the_table_counts_tries_and_names_what_was_lost() -> None:
    bad = Try("kill", "SIGKILL to dvc", "sft, 20% of the phase")
    bad.fault("sft was trained again")
    tries = [Try("kill", "SIGKILL to dvc", "ppo, 5% of the phase").row(), bad.row()]
    [row] = chaos.summary(tries)
    assert (row["tries"], row["outcomes"], row["lost"]) == (2, {"healed": 1, "FAULT": 1}, 1)
    about = {"date": "2026-12-01", "machine": "m", "commits": ["c"], "tries": tries, "summary": [row]}
    page = chaos.markdown(about)
    assert "| kill | SIGKILL to dvc | 2 | 1 FAULT, 1 healed | 1 |" in page
    assert "- kill, SIGKILL to dvc (sft, 20% of the phase): sft was trained again" in page
