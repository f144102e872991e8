"""A small but whole main job in a clone of its own, and what must hold of it whatever was done to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from clone import clone_project
from conftest import PATIENCE

from tasks.graph import content_hash

SIZES = {"base.steps": 40, "base.save_every": 8, "sft.epochs": 2, "reward.epochs": 4, "ppo.updates": 6}
OURS = ("RLHF_", "MLFLOW_", "PREFECT_", "LABELING_", "VIRTUAL_ENV", "PYTHONPATH", "GIT_")
VARYING = ("runs/", "reports/")  # MLflow run ids; pages carry times and names of runs
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
STAGES = (
    *("ingest", "prepare", "validate", "base", "sft", "collect"),
    *("validate-comparisons", "reward", "ppo", "evaluate", "register"),
)
COMMANDS = {("tasks.validate", "prepared"): "validate", ("tasks.validate", "comparisons"): STAGES[6]}
PROGRAMS = {"flows.run": "flow", "flows.services.prefect": "server", "worker": "worker"}


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code.
        said: all that it printed.
    """

    code: int
    said: str

    @property
    def line(self) -> str:
        """The line with which it ended."""
        return next((line for line in reversed(self.said.splitlines()) if line.strip()), "")

    @property
    def clear(self) -> bool:
        """Whether it failed as it should: an error line and no traceback."""
        return self.code == 1 and "error: " in self.said and "Traceback" not in self.said


class Job:
    """A clone of the project in small sizes, and the commands that a person would give there.

    Attributes:
        clone: the checkout.
        state: its state folder.
        env: the environment of its commands; every process of the job is known by the state folder in it.
    """

    def __init__(self, folder: Path, changes: Mapping[str, Any] | None = None, of: Job | None = None) -> None:
        self.clone, self.state = folder / "rlhf-pipeline", folder / "state"
        folder.mkdir(parents=True, exist_ok=True)
        if of:
            subprocess.run(["git", "clone", "-q", str(of.clone), str(self.clone)], check=True)
            (self.clone / ".venv").symlink_to(sys.prefix)
        else:
            clone_project(self.clone, SIZES | {"threads": 1} | dict(changes or {}))
        env = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        path = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
        own = {"RLHF_STATE": str(self.state), "PYTHONPATH": str(self.clone), "PATH": path}
        self.env = env | own | {"DVC_NO_ANALYTICS": "1"}
        self.prefect = self.state / "prefect"  # where the Prefect server that its runs use has its database

    def start(self, *words: str, log: Path | None = None) -> subprocess.Popen[str]:
        """Start `python -m <words>`; what it prints goes to a file or a pipe."""
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=self.clone,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=log.open("w") if log else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str) -> Ended:
        """Run `python -m <words>` to its end."""
        process = self.start(*words)
        try:
            said = process.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            self.kill_all()
            said = process.communicate()[0] + f"\nerror: still at work after {PATIENCE:.0f} s"
        return Ended(process.returncode, said)

    def pipeline(self, *options: str) -> Ended:
        """The main job, as `make run` gives it."""
        return self.run("flows.run", *options)

    def set_up(self) -> None:
        """Make both databases, as `make` does when it sets the environment up."""
        connect = "from tasks.runtime.tracking import connect; connect()"
        upgrade = ["-m", "prefect", "server", "database", "upgrade", "-y"]
        home = {"PREFECT_HOME": str(self.prefect)}
        self.state.mkdir(exist_ok=True)
        for words in (["-c", connect], upgrade):
            command = [sys.executable, *words]
            subprocess.run(command, cwd=self.clone, env=self.env | home, check=True, capture_output=True)

    def git(self, *words: str) -> str:
        """Run git in the clone."""
        words = ("-c", "user.name=test", "-c", "user.email=test@example.org", *words)
        return subprocess.run(
            ["git", *words], cwd=self.clone, env=self.env, check=True, capture_output=True, text=True
        ).stdout

    def lock(self) -> dict[str, str]:
        """The outputs that dvc.lock names, with DVC's hash; without those that differ from run to run."""
        lock = self.clone / "dvc.lock"
        stages = yaml.safe_load(lock.read_text())["stages"].values() if lock.exists() else ()
        outs = {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}
        return {path: md5 for path, md5 in outs.items() if not path.startswith(VARYING)}

    def hashes(self) -> dict[str, str]:
        """Hash of what really lies in the checkout at every output; what is missing is left out."""
        return {path: content_hash(self.clone / path) for path in self.lock() if (self.clone / path).exists()}

    def processes(self) -> dict[int, tuple[str, psutil.Process]]:
        """The living processes of the job: number -> what it is (see `_what`), and the process."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                mine = process.environ().get("RLHF_STATE") == str(self.state)
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = (_what(process.cmdline()), process)
        return found

    def kill(self, *targets: str) -> list[str]:
        """SIGKILL to the processes that are one of these, or to all of them; what was killed."""
        every = self.processes().values()
        killed = []
        for what, process in every:
            if not targets or what in targets:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
                    killed.append(what)
        return killed

    def kill_all(self) -> None:
        """End whatever is left of the job."""
        while self.kill():
            time.sleep(0.05)

    def checkpoints(self) -> dict[str, int]:
        """Trainings and the step of the newest checkpoint: `ppo/<key>` -> 12."""
        newest: dict[str, int] = {}
        root = self.clone / "checkpoints"
        for path in root.rglob("checkpoint-*"):
            if path.is_dir() and ".writing" not in path.parts:
                training = str(path.parent.relative_to(root))
                newest[training] = max(newest.get(training, 0), int(path.name.split("-")[1]))
        return newest

    def faults(self, expected: Mapping[str, str]) -> list[str]:
        """What is wrong after the job has ended: hashes that differ from an undisturbed run's, processes
        that are left, runs that never end, a registry without the result."""
        faults = []
        mine = self.hashes()
        if different := sorted(path for path in expected if mine.get(path) != expected[path]):
            faults.append(f"not the bytes of an undisturbed run: {', '.join(different)}")
        if left := [what for what, _ in self.processes().values()]:
            faults.append(f"processes left: {', '.join(left)}")
        return faults + self.unended() + self.registered()

    def unended(self) -> list[str]:
        """Runs that MLflow or Prefect still call running."""
        mlflow = _rows(self.state / "mlflow.db", "SELECT name FROM runs WHERE status = 'RUNNING'")
        faults = [f"MLflow run still RUNNING: {name}" for (name,) in mlflow]
        for kind in ("flow_run", "task_run"):
            states = ", ".join(f"'{state}'" for state in FINAL)
            query = f"SELECT name, state_type FROM {kind} WHERE state_type NOT IN ({states})"
            rows = _rows(self.prefect / "prefect.db", query)
            faults += [f"{kind.replace('_', ' ')} still {state}: {name}" for name, state in rows]
        return faults

    def registered(self) -> list[str]:
        """What is wrong with the registry: the challenger must be the policy that lies in models/ppo."""
        versions = _rows(
            self.state / "mlflow.db",
            "SELECT value FROM registered_model_aliases a JOIN model_version_tags t "
            "ON a.name = t.name AND a.version = t.version WHERE a.alias = 'challenger' AND t.key = 'weights'",
        )
        mine = self.hashes().get("models/ppo")
        return [] if [(mine,)] == versions else [f"@challenger is {versions}, the policy {mine}"]


def _rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    if not path.exists():
        return []
    with sqlite3.connect(path) as connection:
        return connection.execute(query).fetchall()


def _what(command: list[str]) -> str:
    """What a process is: a stage by its name, `flow`, `dvc`, `server`, `worker`, or else its command."""
    if any(word.endswith("dvc_runner.py") for word in command):
        return "dvc"
    module = command[command.index("-m") + 1] if "-m" in command[:-1] else ""
    if module.startswith("tasks."):
        words = (module, *command[command.index("-m") + 2 :])
        return COMMANDS.get(words[:2], module.removeprefix("tasks."))  # type: ignore[call-overload]
    if module == "prefect" and "worker" in command:
        return "worker"
    return PROGRAMS.get(module, " ".join(command)[:80])


@contextmanager
def job(folder: Path, changes: Mapping[str, Any] | None = None) -> Iterator[Job]:
    """A job whose processes end with the block."""
    made = Job(folder, changes)
    try:
        yield made
    finally:
        made.kill_all()
        shutil.rmtree(folder, ignore_errors=True)


def events(tree: Path) -> list[dict[str, Any]]:
    """The events of the trainings of a run, by its worktree."""
    path = tree / ".dvc/tmp/progress.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]
