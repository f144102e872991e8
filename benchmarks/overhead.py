"""What the flow costs on top of its stages: `python -m benchmarks.overhead [--set KEY=VALUE ...]`.

In copies of the checkout, each with an empty cache and state folder:

1. every stage bare, as `python -m tasks.<stage>`, one after the other;
2. the same as one flow run, with a temporary Prefect server, from the start of the process to its end;
3. with nothing to do, the median of five each: the flow again, which then starts no run; the flow with a
   name, which makes it a run in all three tools, with a temporary Prefect server and with one that is
   already there; and `dvc repro`.

The limits are in `LIMITS`: the flow may take 1.15 times as long as its stages for the main job, and with
nothing to do under 10 s, `dvc repro` under 3 s. Prints Markdown; with --out it also writes
overhead-<date>-<machine>-<n>cores.json there. With the default parameters it takes about two and a half times
as long as the pipeline.

The columns say where a stage's seconds go (benchmarks/where.py samples the stack 50 times a second):
`python` its start and end, `import` loading modules, `data` reading, checking, judging, drawing and writing,
`models` sampling, scoring and loading outside of training, `training` the trainer, `logging` MLflow.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import datetime
import os
import platform
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from flows.params import parse_changes, plan, write_params
from flows.workspace import snapshot
from rlhf.data.files import read_json, write_json
from tasks.runtime.errors import StageError, one_line_errors
from tasks.runtime.places import git_commit

REPEATS = 5  # of each command with nothing to do; the median counts
COLUMNS = ("python", "import", "data", "models", "training", "logging")
LIMITS = {  # at most, a ratio or seconds
    "flow / bare": 1.15,
    "flow, nothing to do": 10.0,
    "flow with a name, nothing to do": 10.0,
    "flow with a name and a server, nothing to do": 10.0,
    "dvc repro, nothing to do": 3.0,
}


def copy_of_checkout(folder: Path, changes: list[str]) -> None:
    """Make a repository with the checkout's files and these parameters, committed."""
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


def timed(folder: Path, *command: str) -> tuple[float, str]:
    """Seconds that a command takes in a copy, and what it printed.

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
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"{shlex.join(command)}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return time.monotonic() - started, done.stdout + done.stderr


def repeated(folder: Path, *command: str) -> list[float]:
    """Seconds that a command takes, each time that it is run."""
    return [timed(folder, *command)[0] for _ in range(REPEATS)]


@contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """A Prefect server on the copy's database; yields the URL of its API."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    env = {**os.environ, "PREFECT_HOME": str(folder / ".state/prefect")}
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(120):
                with suppress(httpx.HTTPError):
                    httpx.get(f"http://127.0.0.1:{port}/api/health").raise_for_status()
                    break
                time.sleep(1)
            yield f"http://127.0.0.1:{port}/api"
        finally:
            process.terminate()


def bare_stages(folder: Path) -> dict[str, dict[str, float]]:
    """Stage -> seconds in all, and of each column."""
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    where = folder.parent / "where.json"
    seconds = {}
    for name, stage in stages.items():  # dvc.yaml is in the order of the graph
        _, _, *module = shlex.split(stage["cmd"])  # python -m
        for out in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
            path = folder / (out if isinstance(out, str) else next(iter(out)))
            path.parent.mkdir(parents=True, exist_ok=True)
        whole, _ = timed(folder, sys.executable, "-m", "benchmarks.where", str(where), *module)
        parts = read_json(where)
        seconds[name] = {"all": whole, "python": whole - sum(parts.values()), **parts}
    return seconds


def measure(changes: list[str]) -> dict[str, Any]:
    """Everything that this benchmark measures.

    Args:
        changes: parameters as KEY=VALUE.
    """
    root = Path(tempfile.mkdtemp(prefix="overhead-"))
    try:
        bare, flow = root / "bare", root / "flow"
        for folder in (bare, flow):  # making the databases is part of the set-up
            copy_of_checkout(folder, changes)
            timed(folder, sys.executable, "-c", "from tasks.runtime.tracking import connect; connect()")
        home = f"PREFECT_HOME={flow}/.state/prefect"
        timed(flow, "env", home, sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y")
        stages = bare_stages(bare)
        run = [sys.executable, "-m", "flows.run"]
        whole, _ = timed(flow, *run)
        idle = [repeated(flow, *run), repeated(flow, *run, "--name", "again")]
        with prefect_server(flow) as url:
            idle.append(repeated(flow, "env", f"PREFECT_API_URL={url}", *run, "--name", "served"))
        idle.append(repeated(flow, sys.executable, "-m", "dvc", "repro"))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    total = sum(row["all"] for row in stages.values())
    medians = [statistics.median(seconds) for seconds in idle]
    measured = dict(zip(LIMITS, (whole / total, *medians), strict=True))
    return {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": psutil.getloadavg()[0],
        "commit": git_commit(),
        "changes": changes,
        "stages": stages,
        "bare": total,
        "flow": whole,
        "figures": measured,
        "nothing to do": dict(zip(list(LIMITS)[1:], idle, strict=True)),
        "asked": LIMITS,
    }


def table(result: dict[str, Any]) -> str:
    """What `measure` returns, as Markdown."""
    stages = result["stages"]
    rows = {
        **stages,
        "all": {key: sum(row.get(key, 0) for row in stages.values()) for key in ("all", *COLUMNS)},
    }
    lines = [f"| stage | s | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, row in rows.items():
        lines.append(
            f"| {name} | " + " | ".join(f"{row.get(key, 0):.1f}" for key in ("all", *COLUMNS)) + " |"
        )
    lines += ["", f"- flow {result['flow']:.1f} s, its stages bare {result['bare']:.1f} s"]
    for name, value in result["figures"].items():
        unit = "" if "/" in name else " s"
        times = result["nothing to do"].get(name, [])
        spread = f", {min(times):.1f} to {max(times):.1f} in {len(times)}" if times else ""
        lines.append(f"- {name}: {value:.2f}{unit} (asked: at most {result['asked'][name]:g}{unit}){spread}")
    lines.append(
        f"- {result['cores']} cores, load {result['load']:.1f} at the end; other work makes all of it slower"
    )
    return "\n".join(lines)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a parameter")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the figures: benchmarks/results")
    arguments = parser.parse_args()
    with one_line_errors():
        result = measure(arguments.set)
    print(table(result))
    if arguments.out:
        name = f"overhead-{result['date']}-{result['machine']}-{result['cores']}cores.json"
        write_json(arguments.out / name, result)


if __name__ == "__main__":
    main()
