"""What tests share: a copy of the project to work in, with small parameters and a state folder of its own."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.settings import load_settings
from tasks.runtime.process import settle
from tasks.runtime.stage import Stage, stage_settings

pytest_plugins = [
    "label_app",
    "flow_repository",
    "chat_server",
    "hub_server",
    "run_folders",
    "real_tokenizers",
]

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 1200.0  # seconds until a test gives up on what should happen; how fast it happens is not tested
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
SMALL = {
    "ingest.corpus_posts": 200,
    "ingest.train_posts": 120,
    "ingest.test_posts": 40,
    "prepare.validation_share": 0.1,
    "base.steps": 6,
    "base.batch_size": 8,
    "base.save_every": 2,
    "sft.epochs": 0.5,
    "sft.save_every": 2,
    "collect.prompts": 16,
    "reward.epochs": 1,
    "reward.batch_size": 4,
    "reward.save_every": 2,
    "ppo.updates": 2,
    "ppo.batch_size": 16,
    "ppo.micro_batch_tokens": 1024,
    "ppo.epochs": 1,
    "ppo.response_length": 12,
    "ppo.save_every": 1,
    "ppo.best_of_n": 2,
    "evaluate.prompts": 20,
    "evaluate.response_length": 12,
}


def pytest_configure(config: pytest.Config) -> None:
    """The tests' process is a program of ours too; their modules load torch and Prefect after this."""
    settle()


class Quiet(Stage):
    """A stage that logs nowhere, so that a test pays for no tracking store."""

    def log_curve(self, *args: Any, **kwargs: Any) -> None:
        pass

    log_figures = log_tags = log_samples = log_dataset = log_artifact = log_curve

    def compare_profiles(self, *args: Any) -> None:
        """There is no last version."""


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Workspace:
    """A copy of the project's files in `path`, which is the working directory of the test."""

    path: Path

    def set(self, changes: dict[str, Any]) -> None:
        """Change params.yaml by dotted keys; values are not checked."""
        values = yaml.safe_load((self.path / "params.yaml").read_text())
        for key, value in changes.items():
            inner = values
            *sections, last = key.split(".")
            for section in sections:
                inner = inner[section]
            inner[last] = value
        (self.path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    def stage(self, name: str) -> dict[str, float]:
        """Run a stage of dvc.yaml in this process, without tracking; returns its figures."""
        module = importlib.import_module(f"tasks.{name.split('-')[0]}")
        return module.main(Quiet(name, stage_settings(name), key="test", run_id="test")) or {}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m <words>` as a person would."""
        return subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, timeout=PATIENCE
        )


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pristine copy of the project's files (no data, no history), with small parameters."""
    copy = tmp_path_factory.mktemp("project") / "copy"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    values = load_settings(ROOT / "params.yaml").model_dump(by_alias=True)
    values["threads"] = 1  # tests run side by side
    for key, value in SMALL.items():
        section, name = key.split(".")
        values[section][name] = value
    (copy / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    (copy / "dvc.lock").unlink(missing_ok=True)
    return copy


@pytest.fixture
def workspace(
    project: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """The project in a folder of this test, the working directory; one state folder for the session."""
    path = tmp_path / "project"
    shutil.copytree(project, path)
    monkeypatch.chdir(path)
    monkeypatch.setenv("RLHF_STATE", str(tmp_path_factory.getbasetemp() / "state"))
    for name in ("RLHF_PARENT_RUN", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return Workspace(path)


@pytest.fixture
def repository(workspace: Workspace) -> Workspace:
    """The workspace under git, as DVC wants it."""
    for words in (["init", "-q", "."], ["add", "-A"]):
        subprocess.run(["git", *words], check=True, cwd=workspace.path)
    return workspace


def dvc(*words: str) -> str:
    """Run DVC in the working directory; returns what it printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr
