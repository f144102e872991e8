"""What the flow costs on top of its stages: `python -m benchmarks.overhead [--set KEY=VALUE ...]`.

In copies of the checkout, each with an empty cache and state folder:

1. every stage bare, `python -m tasks.<stage>`, one after the other;
2. the same as one flow run, with a temporary Prefect server, from the start of the process to its end;
3. the flow again, and `dvc repro`, with nothing to do.

Asked: 2 at most 1.15 times 1 for the main job; the flow under 10 s and `dvc repro` under 3 s with nothing to
do. Of each stage, `import` is what importing its module and MLflow takes in a process of its own, `training`
what the trainer reports, `rest` what is left: reading, sampling, judging, logging, writing.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

from flows.workspace import parse_changes, plan, snapshot, write_params
from tasks.context import StageError, one_line_errors

_TRAINED = re.compile(r"'train_runtime': '?([\d.]+)")


def copy_of_checkout(folder: Path, changes: list[str]) -> None:
    """A repository with the checkout's files, committed, and these parameters."""
    settings = plan(None, None, parse_changes(changes))
    tree = snapshot()
    _run("git", "clone", "--quiet", "--shared", ".", str(folder))
    _run("git", "-C", str(folder), "read-tree", "-u", "--reset", tree)
    (folder / "dvc.lock").unlink(missing_ok=True)
    write_params(folder / "params.yaml", settings)
    identity = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
    _run(
        "git",
        "-C",
        str(folder),
        *identity,
        "commit",
        "--quiet",
        "--all",
        "--allow-empty",
        "--message",
        "copy",
    )


def timed(folder: Path, *words: str) -> tuple[float, str]:
    """Seconds that a command takes in a copy, and what it said.

    Raises:
        StageError: it failed.
    """
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("RLHF_", "PREFECT_", "MLFLOW_"))
    }
    env |= {
        "PYTHONPATH": str(folder),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]]),
    }
    env |= {"DVC_NO_ANALYTICS": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    started = time.monotonic()
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"{shlex.join(words)}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return time.monotonic() - started, done.stdout + done.stderr


def bare_stages(folder: Path) -> dict[str, tuple[float, float, float]]:
    """Stage -> seconds in all, of imports, of training."""
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    seconds = {}
    for name, stage in stages.items():  # dvc.yaml is in the order of the graph
        words = shlex.split(stage["cmd"])
        for out in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
            path = folder / (out if isinstance(out, str) else next(iter(out)))
            path.parent.mkdir(parents=True, exist_ok=True)
        whole, said = timed(folder, sys.executable, *words[1:])
        imports, _ = timed(folder, sys.executable, "-c", f"import {words[2]}, mlflow")
        seconds[name] = (whole, imports, sum(map(float, _TRAINED.findall(said))))
    return seconds


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a parameter")
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="overhead-"))
    try:
        with one_line_errors():
            bare, flow = root / "bare", root / "flow"
            copy_of_checkout(bare, given.set)
            copy_of_checkout(flow, given.set)
            for folder in (bare, flow):  # making the databases is part of the set-up
                timed(folder, sys.executable, "-c", "from tasks.context import connect; connect()")
            home = f"PREFECT_HOME={flow}/.state/prefect"
            timed(flow, "env", home, sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y")
            stages = bare_stages(bare)
            whole, _ = timed(flow, sys.executable, "-m", "flows.rlhf")
            nothing, _ = timed(flow, sys.executable, "-m", "flows.rlhf")
            repro, _ = timed(flow, sys.executable, "-m", "dvc", "repro")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print("| stage | s | import | training | rest |\n|---|---|---|---|---|")
    for name, (all_, imports, training) in stages.items():
        print(f"| {name} | {all_:.1f} | {imports:.1f} | {training:.1f} | {all_ - imports - training:.1f} |")
    total = sum(row[0] for row in stages.values())
    print(f"| all | {total:.1f} | | | |\n")
    print(
        f"- flow {whole:.1f} s, {whole / total:.2f} of its stages bare (asked: at most 1.15 for the main job)"
    )
    print(f"- flow with nothing to do {nothing:.1f} s (asked: under 10)")
    print(f"- dvc repro with nothing to do {repro:.1f} s (asked: under 3)")
    cores, load = len(os.sched_getaffinity(0)), psutil.getloadavg()[0]
    print(f"- {cores} cores, load {load:.1f} at the end; other work makes all of it slower")


if __name__ == "__main__":
    main()
