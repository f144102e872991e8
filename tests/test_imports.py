"""The import contracts hold for files that nobody has listed: a new module is shut out unless named."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("flows", "tasks", "feedback", "rlhf")
# A new file -> an import that no contract allows it.
NEW = {
    "rlhf/dpo.py": "from rlhf.world.gold import gold_score",
    "rlhf/grpo.py": "from rlhf.world.labelers import rank",
    "rlhf/rl/trainer.py": "from rlhf.judges import load_judge",
    "rlhf/kto.py": "def reward():\n    from rlhf.evaluation import rates",
    "tasks/dpo.py": "from rlhf.world.panel import Panel",
    "tasks/align.py": "from tasks.evaluate import quality_axes",
    "tasks/rloo.py": "import rlhf.world.gold",
    "feedback/scores.py": "from rlhf.reward import score",
    "rlhf/tracked.py": "import mlflow",
    "rlhf/upward.py": "from tasks.context import Stage",
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
