"""Every stage of a build as a process of its own, one after another: seconds, processor seconds, memory."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from benchmarks.data import environment


def commands(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The stages of a clone in the order of the graph, with their words for Python; makes their folders."""
    for name, stage in yaml.safe_load((folder / "dvc.yaml").read_text())["stages"].items():
        for out in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
            path = folder / (out if isinstance(out, str) else next(iter(out)))
            path.parent.mkdir(parents=True, exist_ok=True)
        yield name, shlex.split(stage["cmd"])[1:]


def run_stages(folder: Path) -> dict[str, dict[str, float]]:
    """Run the stages of a clone; for each `seconds`, `cpu_seconds`, `memory_mb`.

    Raises:
        RuntimeError: one failed; with its last line.
    """
    return {name: run_stage(folder, name, words) for name, words in commands(folder)}


def run_stage(folder: Path, name: str, words: Sequence[str]) -> dict[str, float]:
    """Run Python with these words in a clone; its output stays in output.txt there.

    Raises:
        RuntimeError: it failed; with its last line.
    """
    started = time.monotonic()
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=folder, env=environment(folder), stdout=output, stderr=output
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = (folder / "output.txt").read_text().strip().splitlines()
        last = [line for line in said if not line.startswith("import time:")][-1:]
        raise RuntimeError(f"{folder.name}: {name} ended with {process.returncode}: {last}")
    return {
        "seconds": time.monotonic() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,  # says more than seconds where others work, too
        "memory_mb": usage.ru_maxrss / 1024,
    }
