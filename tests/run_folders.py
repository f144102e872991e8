"""Folders of runs, as the list of runs reads them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from flows.run_state import RunState
from rlhf.data.files import write_json

HOSTILE = "<script>alert(1)</script>"


STAGES = ["ingest", "sft", "evaluate", "register"]


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """A complete, a partial, a failed and a killed run, and one that is at work."""
    monkeypatch.setenv("RLHF_STATE", str(tmp_path / "state"))
    folder = tmp_path / ".runs"
    state = {"stages": STAGES, "ended": STAGES, "began": 1_790_000_000.0}
    done = RunState(**state, name="best", state="complete", finished=1_790_000_300.0)
    half = {"stages": STAGES, "ended": ["ingest"]}
    for run in (
        done,
        RunState("early", 1_790_000_100.0, state="partial", **half),
        RunState("broken", 1_790_000_200.0, state="failed", failed="sft", said=HOSTILE, **half),
        RunState("gone", 1_790_000_300.0, **half),
        RunState("busy", 1_790_000_400.0, **half),
    ):
        tree = folder / run.name
        tree.mkdir(parents=True)
        run.save(tree)
        shutil.copy(ROOT / "params.yaml", tree)
        write_json(tree / "metrics/prepare.json", {"demonstrations": {"train": {"rows": 5686}}})
    monkeypatch.setattr("flows.services.runs_page.living", lambda: [at_work(folder / "busy")])
    best = folder / "best"
    write_json(best / "metrics/summary.json", RATE)
    rules = [{"rule": "interval", "held": True}, {"rule": HOSTILE, "held": False}]
    write_json(best / "runs/register.json", {"gate": {"promoted": False, "version": "3", "rules": rules}})
    write_json(best / "runs/summary.json", {"changed": f"seed=18 {HOSTILE}"})
    (best / "reports").mkdir()
    (best / "reports/report.html").write_text("the report")
    return folder


RATE = {"rate": 0.322, "low": 0.309, "high": 0.366, "n": 1000, "judge": "gold"}


def at_work(tree: Path):
    from flows.machine import Record

    return Record(tree.name, "", "", os.getpid(), 0.0, folder=str(tree.resolve()))
