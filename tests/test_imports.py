"""The import contracts hold for files that nobody has listed: a new module is shut out unless named."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("flows", "tasks", "labeling", "rlhf")
# A new file -> an import that no contract allows it.
NEW = {
    "rlhf/dpo.py": "from rlhf.world.gold import gold_score",
    "rlhf/grpo.py": "from rlhf.world.labelers import rank",
    "rlhf/rl/trainer.py": "from rlhf.judges.judge import Judge",
    "rlhf/kto.py": "def reward():\n    from rlhf.measures.evaluation import rates",
    "tasks/dpo.py": "from rlhf.world.panel import Panel",
    "tasks/align.py": "from tasks.evaluate import held_out",
    "tasks/rloo.py": "import rlhf.world.gold",
    "tasks/bench.py": "from benchmarks.reward_hacking import one_run",
    "labeling/scores.py": "from rlhf.training.reward import score",
    "rlhf/tracked.py": "import mlflow",
    "rlhf/upward.py": "from tasks.runtime.stage import Stage",
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder)}
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and the contracts, without anything else."""
    folder = tmp_path_factory.mktemp("imports")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_contracts_hold(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", NEW)
def test_a_new_file_is_held_by_the_contracts(name: str, copy: Path) -> None:
    file = copy / name
    made = not file.parent.exists()
    file.parent.mkdir(exist_ok=True)
    (file.parent / "__init__.py").touch()
    file.write_text(NEW[name] + "\n")
    done = lint(copy)
    file.unlink()
    if made:
        shutil.rmtree(file.parent)
    assert done.returncode == 1
    module = name.removesuffix(".py").replace("/", ".")
    assert re.search(rf"{re.escape(module)}\b", done.stdout), done.stdout


@pytest.mark.parametrize("stage", ["ppo", "collect", "ingest"])
def test_a_stage_that_may_import_the_world_may_not_import_its_judges(stage: str, copy: Path) -> None:
    file = copy / f"tasks/{stage}.py"
    code = file.read_text()
    file.write_text(code + "from rlhf.world.judges import gold_judge\n")
    done = lint(copy)
    file.write_text(code)
    assert done.returncode == 1
    assert f"tasks.{stage} -> rlhf.world.judges" in done.stdout, done.stdout


def test_the_docs_tell_the_one_exemption() -> None:
    """Of the stages that train, PPO alone may import the built-in world."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [world] = [contract for contract in contracts if contract.get("protected_modules") == ["rlhf.world"]]
    trains = {f"tasks.{stage}" for stage in ("base", "sft", "reward", "ppo")}
    assert trains & set(world["allowed_importers"]) == {"tasks.ppo"}
    text = " ".join((ROOT / "docs/architecture.md").read_text().split())
    assert "`tasks.ppo` alone of those that train may import the world" in text


def test_what_is_there_is_not_left_for_later() -> None:
    later = (ROOT / "docs/architecture.md").read_text().split("## Left for later")[1].split("\n## ")[0]
    assert (ROOT / "flows/sweep.py").exists()
    assert "sweep" not in later


def test_the_house_has_few_rooms_and_arrows_and_no_circle() -> None:
    done = subprocess.run([sys.executable, ROOT / "dev/house.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
