"""The list of the runs as a page: when each began, how it ended, what came of it, and its pages.

Everything is read from the runs' worktrees, in which nothing of another run lies (flows/run_state.py). The
page runs no script and loads nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flows.machine import living
from flows.past_params import load_past
from flows.run_state import RunState, pages, read_state
from rlhf.data.errors import DataError
from rlhf.data.files import read_json
from rlhf.measures.display import count_text, rate_text
from rlhf.report.templates import page_template
from rlhf.settings import SettingsError, base_name

REPORT = "reports/report.html"


def runs_page(runs: Path) -> str:
    """The page of all runs that have a worktree in this folder, the newest first."""
    at_work = {record.folder for record in living()}
    entries = [row(tree, str(tree.resolve()) in at_work) for tree in runs.glob("*") if tree.is_dir()]
    newest = sorted(entries, key=lambda entry: -entry["when"])
    return page_template("flows.services", "runs_page.html.j2").render(runs=newest)


def row(tree: Path, at_work: bool) -> dict[str, Any]:
    """What the page shows of one run; what the run has not come to is empty.

    Args:
        tree: the run's worktree.
        at_work: whether its process is alive.
    """
    state = read_state(tree)
    when = state.began if state else tree.stat().st_mtime
    gate, rate = _read(tree / "runs/register.json").get("gate"), _read(tree / "metrics/summary.json")
    return {
        "name": tree.name,
        "when": when,
        "began": time.strftime("%Y-%m-%d %H:%M", time.gmtime(when)),
        "state": _state(state, at_work),
        "said": _said(state),
        "rate": rate_text(rate) if rate else "",
        "judge": f"{rate['n']} prompts, {rate['judge']}" if rate else "",
        "decision": _decision(gate) if gate else "",
        "promoted": bool(gate and gate.get("promoted")),
        "size": _size(tree),
        "changed": _read(tree / "runs/summary.json").get("changed", ""),
        "report": quote(f"{tree.name}/{REPORT}") if (tree / REPORT).exists() else "",
        "pages": [
            (what, quote(f"{tree.name}/{next(iter(names.values()))}"))
            for what, names in pages(tree).items()
            if names
        ],
    }


def _state(state: RunState | None, at_work: bool) -> str:
    if state is None:
        return "unknown"
    # A killed run could not write down that it was killed; the next run will.
    return "killed" if state.state == "running" and not at_work else state.state


def _said(state: RunState | None) -> str:
    """How far a run came that is not complete, and why."""
    if state is None or state.state == "complete":
        return ""
    done = f"{len(state.ended)} of {len(state.stages)} stages" if state.stages else ""
    after = f"failed in {state.failed}" if state.failed else ""
    return "; ".join(filter(None, (done, after, state.said)))


def _decision(gate: Mapping[str, Any]) -> str:
    if gate.get("promoted"):
        return f"version {gate['version']} promoted to @champion"
    failed = [rule["rule"] for rule in gate.get("rules", []) if not rule["held"]]
    return f"version {gate['version']} stays @challenger: {', '.join(failed)} failed"


def _size(tree: Path) -> list[str]:
    """The model's size, and how many rows it learnt from."""
    parts: list[str] = []
    with suppress(SettingsError):
        parts.append(base_name(load_past(tree / "params.yaml").base))
    counted = _read(tree / "metrics/prepare.json").get("demonstrations", {})
    if demonstrations := sum(split["rows"] for split in counted.values()):
        parts.append(count_text(demonstrations, "demonstrations"))
    if rankings := _read(tree / "metrics/collect.json").get("all", {}).get("rankings"):
        parts.append(count_text(rankings, "rankings"))
    return parts


def _read(path: Path) -> dict[str, Any]:
    """A JSON file of a run; empty where the run has not come to it, or is just writing it."""
    try:
        return dict(read_json(path))
    except (DataError, OSError, ValueError, TypeError):
        return {}
