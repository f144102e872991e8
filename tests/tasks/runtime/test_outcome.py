"""The figures by which DVC compares runs: what is in them, and that a table of ten runs fits a terminal."""

from __future__ import annotations

import json
import subprocess

import pytest
import yaml
from conftest import Workspace, dvc
from dvc.repo import Repo

from rlhf.data.files import write_json
from tasks.runtime import outcome

EVALUATION = {
    "judge": {"name": "gold", "kind": "gold"},
    "policies": {"ppo": {"rate": 0.63512, "low": 0.6061, "high": 0.6644, "n": 1000, "kl": 3.0}},
}


def test_cost_is_the_sum_of_the_seconds_and_the_largest_memory(workspace: Workspace) -> None:
    write_json("runs/sft.json", {"cost": {"seconds": 1000.0, "memory_mb": 9e6}})
    write_json("runs/ppo.json", {"cost": {"seconds": 500.0, "memory_mb": 10.0}})
    cost = outcome.total_cost()
    assert 1500 < cost["seconds"] < 1500 + 3600
    assert cost["memory_mb"] == 9e6


def test_what_differs_is_named_in_short(repository: Workspace) -> None:
    assert outcome.changed_parameters() == {}  # no commit yet
    commit()
    assert outcome.changed_parameters() == {}
    repository.set({"ppo.kl_coef": 0.2, "seed": 18, "sft.learning_rate": 0.001, "ingest.path": "/somewhere"})
    changed = outcome.changed_parameters()
    assert changed == {"seed": 18, "sft.learning_rate": 0.001, "ppo.kl_coef": 0.2}
    assert outcome.in_short(changed, 100) == "seed=18 sft.learning_rate=0.001 kl_coef=0.2"
    assert outcome.in_short(changed, 12) == "seed=18 +2"
    assert outcome.in_short({"sft.learning_rate": 0.001}, 24) == "sft.learning_rate=0.001"
    assert outcome.in_short({"sft.learning_rate": 0.001}, 20) == "learning_rate=0.001"
    assert outcome.in_short({}) == ""


def test_a_base_of_another_type_has_lost_nothing(repository: Workspace) -> None:
    commit()
    repository.set({"base": {"type": "pretrained", "path": "a/b"}, "seed": 18})
    changed = outcome.changed_parameters()
    assert changed == {"seed": 18, "base.type": "pretrained", "base.path": "a/b"}
    assert outcome.in_short(changed, 100) == "seed=18 type=pretrained base.path=a/b"


def test_experiments_are_readable_in_120_columns(
    repository: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pager shows a terminal's width of the table first: all metrics stand there, for every run."""
    stages = yaml.safe_load((repository.path / "dvc.yaml").read_text())["stages"].values()
    metrics = [path for stage in stages for path in stage.get("metrics", [])]
    plain = {"metrics": metrics}  # files in git, so that nothing has to run; params.yaml is always shown
    (repository.path / "dvc.yaml").write_text(yaml.safe_dump(plain))
    (repository.path / ".gitignore").write_text("")
    outcome.write_rate(EVALUATION)
    outcome.write_outcome(promoted=False)
    commit()
    names = [f"kl-{number:02d}" for number in range(3)]
    for number, name in enumerate(names):
        repository.set({"ppo.kl_coef": number / 100})
        evaluation = json.loads(json.dumps(EVALUATION))
        evaluation["policies"]["ppo"]["rate"] += number / 100
        outcome.write_rate(evaluation)
        outcome.write_outcome(promoted=number > 1)
        with Repo() as repo:
            repo.experiments.save(name=name, force=True)
    monkeypatch.setenv("COLUMNS", "4000")  # as wide as the pager lets it be
    screen = [line[:120] for line in dvc("exp", "show", "--no-pager").splitlines()]
    header = next(line for line in screen if "Experiment" in line).split()
    columns = ["rate", "low", "high", "n", "judge", "promoted", "seconds", "changed"]
    assert header[: 2 + len(columns)] == ["Experiment", "Created", *columns]
    for number, name in enumerate(names):
        row = next(line for line in screen if f"[{name}]" in line).split()
        assert f"{0.635 + number / 100:.3f}" in row
        assert f"kl_coef={number / 100}" in row
    assert len(dvc("metrics", "diff", *names[:2]).splitlines()) < 20


def commit() -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(["git", *identity, "commit", "-q", "-m", "start"], check=True)
