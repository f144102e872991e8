"""Idle OpenMP threads soon sleep in every program of the project, unless a person decides otherwise."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
BARE = {name: value for name, value in os.environ.items() if name not in SETTINGS}


def run(program: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program from the checkout in an environment that says nothing about waiting threads."""
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**BARE, **env},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize("package", ["rlhf", "tasks", "flows", "benchmarks"])
def test_a_package_says_how_threads_wait_before_anything_loads_torch(package: str) -> None:
    done = run(f"import os, sys, {package}\nprint(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)")
    assert done.stdout.split() == ["10000", "False"]


def test_the_openmp_of_a_stage_spins_shortly() -> None:
    """libgomp itself says what it read, as it is loaded."""
    said = run("import tasks.pretrain, torch", OMP_DISPLAY_ENV="verbose").stderr
    assert re.search(r"GOMP_SPINCOUNT = '10000'", said), said


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "1000"}])
def test_a_setting_of_the_person_who_runs_it_stays_alone(own: dict[str, str]) -> None:
    done = run(f"import os, tasks\nprint({{n: os.environ[n] for n in {SETTINGS} if n in os.environ}})", **own)
    assert done.stdout.strip() == str(own)
