"""dvc.yaml against the code: a stage depends on the modules that it imports, no more and no fewer."""

from __future__ import annotations

import re
from typing import Any

import grimp
import pytest
import yaml
from conftest import ROOT

STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# what these change reaches a stage through its params, or refuses it
LEFT_OUT = {
    "tasks/runtime/stage.py",
    "tasks/runtime/declared.py",
    "rlhf/settings.py",
    "tasks/runtime/preflight.py",
}
FOLDERS = ("rlhf/world",)  # packages listed as a whole
BY_PATH = {"register": "mlflow/served_policy.py"}  # handed to MLflow as a file, not imported


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("tasks", "rlhf", "labeling", exclude_type_checking_imports=True, cache_dir=None)


def module_of(stage: dict[str, Any]) -> str:
    found = re.fullmatch(r"python -m (tasks\.\w+)( \w+)?", stage["cmd"])
    assert found, f"{stage['cmd']!r} is not `python -m tasks.<stage>`"
    return found[1]


def imported_files(imports: grimp.ImportGraph, *modules: str) -> set[str]:
    """Files of modules and of all that they import in our packages."""
    files = set()
    for name in {*modules, *(found for module in modules for found in imports.find_upstream_modules(module))}:
        path = name.replace(".", "/")
        folder = next((f for f in FOLDERS if path == f or path.startswith(f + "/")), None)
        if folder:
            files.add(folder)
        elif (ROOT / f"{path}.py").exists():  # an __init__.py holds no code
            files.add(f"{path}.py")
    return files - LEFT_OUT


@pytest.mark.parametrize("name", STAGES)
def test_deps_are_the_import_closure(name: str, imports: grimp.ImportGraph) -> None:
    code = {dep for dep in STAGES[name]["deps"] if dep.endswith(".py") or dep in FOLDERS}
    by_path = {BY_PATH[name]} if name in BY_PATH else set()
    assert code == imported_files(imports, module_of(STAGES[name])) | by_path
    assert len(STAGES[name]["deps"]) == len(set(STAGES[name]["deps"]))


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_records_its_run(name: str) -> None:
    assert f"runs/{name}.json" in STAGES[name]["outs"]


def test_few_files_are_metrics_so_that_experiments_fit_a_terminal() -> None:
    metrics = [metric for stage in STAGES.values() for metric in stage.get("metrics", [])]
    assert metrics == ["metrics/summary.json", "runs/summary.json"]


def test_the_docs_say_who_reads_the_gold_preference() -> None:
    text = " ".join((ROOT / "docs/architecture.md").read_text().split())
    found = re.search(
        r"`data/gold`, an output of its own, so that `dvc.yaml` shows who reads it: (.*?)\.", text
    )
    assert found
    told = re.findall(r"`([a-z-]+)`", found[1])
    assert told == [name for name, stage in STAGES.items() if "data/gold" in stage["deps"]]


def test_every_dep_exists_or_is_written_by_a_stage() -> None:
    written: set[str] = set()
    for stage in STAGES.values():
        for out in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
            written.add(out if isinstance(out, str) else next(iter(out)))
    for name, stage in STAGES.items():
        for dep in stage["deps"]:
            made = any(out == dep or out.startswith(f"{dep}/") for out in written)
            assert made or (ROOT / dep).exists(), f"{name}: nothing writes {dep} and it is not there"


def test_packages_hold_no_code_that_no_stage_depends_on() -> None:
    """The stages leave __init__.py out, so nothing that matters may stand there."""
    for package in ("rlhf", "tasks"):
        lines = (ROOT / package / "__init__.py").read_text()
        assert "def " not in lines
        assert "class " not in lines


def test_templates_are_dependencies() -> None:
    """A file that code reads and nobody imports has to be named by a stage."""
    named = {dep for stage in STAGES.values() for dep in stage["deps"]}
    for template in sorted((ROOT / "rlhf").glob("*.j2")):
        assert template.relative_to(ROOT).as_posix() in named
