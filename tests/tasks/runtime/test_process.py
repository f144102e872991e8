"""A program of ours settles its process before it loads a library, and importing a module changes nothing."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from flows.dvc_process import RUNNER
from tasks.runtime.process import VARIABLES

OWN = ("rlhf", "tasks", "flows", "labeling", "benchmarks")
BARE = {name: value for name, value in os.environ.items() if name not in {"OMP_WAIT_POLICY", *VARIABLES}}
SETTLED = """
if __name__ == '__main__':
    from tasks.runtime.process import settle
    settle()
"""
PROBE = f"""
import atexit, gc, importlib, json, os, signal, sys, warnings

def state():
    return {{
        "environment": dict(os.environ),
        "collector": [gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()],
        "path": list(sys.path),
        "warnings": [str(rule) for rule in warnings.filters],
        "handlers": {{str(number): str(signal.getsignal(number)) for number in signal.valid_signals()}},
        "at exit": atexit._ncallbacks(),
    }}

def load(names):
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:  # a library has put a module there that cannot be imported by its name
            assert name not in ours

ours, others = json.load(sys.stdin)
load(others)
before = state()
load(ours)
foreign = [name for name in sys.modules if name.split(".")[0] not in {OWN}]
print(json.dumps([before, state(), foreign]))
"""
CHECK = ROOT / "flows/export_check.py"  # it runs without this project


def python(*words: str, said: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python from the checkout, in an environment that has none of the variables."""
    return subprocess.run(
        [sys.executable, *words],
        input=said,
        cwd=ROOT,
        env={**BARE, **env},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize("command", ["tasks.base", "flows.run"])
def test_the_openmp_of_a_program_spins_shortly(command: str) -> None:
    """libgomp itself says what it read, as it is loaded."""
    loads = "import atexit; atexit.register(__import__, 'torch'); "  # a flow's --help needs no torch
    runs = (
        f"import runpy, sys; sys.argv = ['x', '--help']; runpy.run_module({command!r}, run_name='__main__')"
    )
    said = python("-c", loads + runs, OMP_DISPLAY_ENV="verbose").stderr
    assert re.search(r"GOMP_SPINCOUNT = '10000'", said), said


def test_every_command_of_stages_and_flows_settles_its_process_first() -> None:
    settled = ast.dump(ast.parse(SETTLED).body[0])
    for path in [*Path(ROOT, "tasks").rglob("*.py"), *Path(ROOT, "flows").rglob("*.py")]:
        text = path.read_text()
        if '__name__ == "__main__"' not in text or path in (
            RUNNER,
            CHECK,
        ):  # whose environment is made for them
            continue
        _, *statements = ast.parse(text).body  # the first is the docstring
        if isinstance(statements[0], ast.ImportFrom) and statements[0].module == "__future__":
            statements.pop(0)
        assert ast.dump(statements[0]) == settled, path


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "1000"}])
def test_a_setting_of_the_person_who_runs_it_stays_alone(own: dict[str, str]) -> None:
    shown = "{n: os.environ[n] for n in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT') if n in os.environ}"
    program = (
        f"import json, os\nfrom tasks.runtime.process import settle\nsettle()\nprint(json.dumps({shown}))"
    )
    assert json.loads(python("-c", program, **own).stdout) == own


def test_importing_our_modules_leaves_the_interpreter_as_the_libraries_leave_it() -> None:
    """What ours import of others is imported first, and nothing may change when ours follow."""
    ours = sorted(
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for package in OWN
        for path in Path(ROOT, package).rglob("*.py")
        if package in ("rlhf", "tasks") or path.name == "__init__.py"
    )
    *_, others = report(ours, [])
    before, after, _ = report(ours, others)
    assert after == before


def report(ours: list[str], others: list[str]) -> list[Any]:
    """A fresh process: its state after it loaded `others`, after `ours` too, and what it loaded of others."""
    return json.loads(python("-c", PROBE, said=json.dumps([ours, others])).stdout.splitlines()[-1])
