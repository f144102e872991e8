"""The list of the runs: what each came to, nothing of another's, and no script, whatever a run wrote."""

import os
import shutil
from pathlib import Path

import pytest
from test_report import Page

from flows.run_state import RunState
from flows.runs_page import runs_page
from rlhf.contracts import write_json

HOSTILE = "<script>alert(1)</script>"
STAGES = ["ingest", "sft", "evaluate", "register"]
ROOT = Path(__file__).parents[1]


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
    monkeypatch.setattr("flows.runs_page.living", lambda: [at_work(folder / "busy")])
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
    from flows.runs import Record

    return Record(tree.name, "", "", str(tree.resolve()), "", os.getpid(), 0.0)


def words(page: str) -> str:
    """The page's text, cells apart."""
    return " ".join(Page(page.replace("<", " <")).text.split())


def test_every_run_is_listed_with_date_state_verdict_and_size(runs):
    text = words(runs_page(runs))
    names = ("busy", "gone", "broken", "early", "best")
    places = [text.index(f"{name} ") for name in names]
    assert places == sorted(places)  # the newest first
    rows = dict(
        zip(names, (text[a:b] for a, b in zip(places, [*places[1:], None], strict=True)), strict=True)
    )
    assert "2026-09-21 14:20 running 1 of 4 stages" in rows["busy"]
    assert "killed 1 of 4 stages" in rows["gone"]
    assert f"failed 1 of 4 stages; failed in sft; {HOSTILE}" in rows["broken"]
    assert "partial 1 of 4 stages" in rows["early"]
    assert "complete 0.322 (0.309 to 0.366) 1000 prompts, gold" in rows["best"]
    assert f"version 3 stays @challenger: {HOSTILE} failed" in rows["best"]
    assert f"seed=18 {HOSTILE}" in rows["best"]
    assert all("0.1M 5,686 demonstrations" in row for row in rows.values())
    for name in names[:-1]:  # nothing of the best run's on another's row
        assert "0.322" not in rows[name]
        assert "challenger" not in rows[name]


def test_the_page_runs_no_script_and_opens_each_report(runs):
    page = Page(runs_page(runs))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "link", "iframe", "form"})
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == ["best/reports/report.html"] * 2  # the name, and the list of pages
    assert all((runs / link).exists() for link in links)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_no_run_and_a_torn_file_are_no_error(runs, tmp_path):
    assert "There is no run yet" in runs_page(tmp_path / "nothing")
    (runs / "best/metrics/summary.json").write_text('{"rate": 0.3')
    (runs / "best/params.yaml").write_text("model: [")
    text = Page(runs_page(runs)).text
    assert "0.322" not in text
    assert "version 3 stays @challenger" in text
