"""Where a result stands in the registry is asked again once the answer could be another, and only then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT

from flows import known_standing as module
from flows.known_standing import KEPT, known_standing
from rlhf.data.files import write_json
from tasks.runtime.registry import Standing

ANSWER = Standing("rlhf-policy", "3", True, "3", "3", lost="")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Standing]:
    """The registry's answers, the last of which it gives; a checkout with a database, an hour old."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLHF_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    write_json("runs/register.json", {"gate": {"version": "3", "promoted": True, "weights": "w"}})
    Path("state").mkdir()
    Path("state/mlflow.db").write_text("first")
    aged("state/mlflow.db", 3600)
    answers = []
    monkeypatch.setattr(module, "standing", lambda folder: answers.append(folder) or ANSWER)
    return answers


def aged(path: str, seconds: float) -> None:
    then = Path(path).stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_an_unchanged_database_is_asked_once(asked: list[Standing]) -> None:
    assert known_standing() == known_standing() == known_standing(Path.cwd()) == ANSWER
    assert len(asked) == 1


def in_place() -> None:
    with open("state/mlflow.db", "r+") as database:
        database.write("other")
    aged("state/mlflow.db", 3600)


def beside() -> None:
    Path("state/mlflow.db-wal").write_text("more")
    aged("state/mlflow.db-wal", 60)


def another_model() -> None:
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("model_name: rlhf-policy", "model_name: other-policy"))


def another_result() -> None:
    write_json("runs/register.json", {"gate": {"version": "4", "promoted": True, "weights": "v"}})


def damaged() -> None:
    Path("state", KEPT).write_text("{")


def of_another_version() -> None:
    text = Path("state", KEPT).read_text()
    Path("state", KEPT).write_text(text.replace('"lost"', '"missing"'))


CHANGES = (in_place, beside, another_model, another_result, damaged, of_another_version)


@pytest.mark.parametrize("change", CHANGES)
def test_it_is_asked_again_after_a_change(change: Callable[[], None], asked: list[Standing]) -> None:
    known_standing()
    change()
    assert known_standing() == ANSWER
    assert len(asked) == 2


def test_a_database_that_has_just_changed_is_asked_each_time(asked: list[Standing]) -> None:
    """Its next change could leave it with the same time."""
    Path("state/mlflow.db").write_text("now")
    known_standing()
    known_standing()
    assert len(asked) == 2
    assert not Path("state", KEPT).exists()


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"])
def test_a_server_is_asked_each_time(
    name: str, asked: list[Standing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "http://localhost:1")
    known_standing()
    known_standing()
    assert len(asked) == 2


def test_what_the_registry_lost_stays_said(asked: list[Standing], monkeypatch: pytest.MonkeyPatch) -> None:
    lost = replace(ANSWER, lost="version 3 of rlhf-policy")
    monkeypatch.setattr(module, "standing", lambda folder: lost)
    assert known_standing().lost == known_standing().lost == lost.lost


def test_the_command_of_a_run_loads_neither_stages_nor_mlflow_nor_prefect() -> None:
    heavy = "{'mlflow', 'pandas', 'httpx', 'prefect', 'dvc', 'torch'}"
    code = f"import sys, flows.run; print(*{heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
