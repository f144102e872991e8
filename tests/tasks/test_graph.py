"""dvc.yaml against the code: a stage depends on the modules that it imports, no more and no fewer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Workspace

from tasks.graph import code_of_stages, stages
from tasks.runtime.places import CODE

STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_dvc_yaml_names_the_code_that_each_stage_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    stages.cache_clear()
    imported = code_of_stages()
    named = {name: [dep for dep in STAGES[name]["deps"] if dep.startswith(CODE)] for name in STAGES}
    assert named == imported, "run `python -m tasks.graph --write`"


def test_a_new_import_is_written_and_nothing_else_changes(workspace: Workspace) -> None:
    before = Path("dvc.yaml").read_text()
    module = Path("tasks/prepare.py")
    module.write_text(module.read_text() + "from rlhf.measures import slices\n")
    told = workspace.run("tasks.graph")
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)
    assert workspace.run("tasks.graph", "--write").returncode == 0
    new = set(Path("dvc.yaml").read_text().splitlines()) - set(before.splitlines())
    prepare = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]["prepare"]
    assert {"rlhf/measures/slices.py", "rlhf/measures/rates.py"} <= set(prepare["deps"])
    assert prepare["deps"][-1] == "data/raw"
    assert new == set()  # each file was named somewhere already, on a line of its own
    assert workspace.run("tasks.graph").returncode == 0


READERS = ("formats/csv_files", "formats/json_files", "layouts/pairs", "reading", "files_source", "judgments")


@pytest.mark.parametrize("module", READERS)
def test_the_readers_of_what_people_bring_are_code_of_ingest_alone(module: str) -> None:
    """So a better error message in one of them retrains nothing and judges nothing again."""
    assert (ROOT / f"rlhf/data/{module}.py").exists()
    named = [name for name, stage in STAGES.items() if f"rlhf/data/{module}.py" in stage["deps"]]
    assert named == ["ingest"]
    assert [name for name, stage in STAGES.items() if "data/human" in stage["deps"]] == ["ingest"]


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_records_its_run(name: str) -> None:
    assert f"runs/{name}.json" in STAGES[name]["outs"]


def test_few_files_are_metrics_so_that_experiments_fit_a_terminal() -> None:
    metrics = [metric for stage in STAGES.values() for metric in stage.get("metrics", [])]
    assert metrics == ["metrics/summary.json", "runs/summary.json"]


def test_the_docs_say_who_reads_the_gold_preference() -> None:
    text = " ".join((ROOT / "docs/architecture.md").read_text().split())
    sentence = re.search(
        r"`data/gold`, an output of its own, so that `dvc.yaml` shows who reads it: (.*?)\.", text
    )
    assert sentence
    told = re.findall(r"`([a-z-]+)`", sentence[1])
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


def test_whoever_reads_a_model_reads_what_its_adapters_sit_on() -> None:
    models = {"models/sft", "models/reward", "models/judge", "models/ppo"}
    for name, stage in STAGES.items():
        assert models.isdisjoint(stage["deps"]) or "models/pretrained" in stage["deps"], name


def test_packages_hold_no_code_that_no_stage_depends_on() -> None:
    """The stages leave __init__.py out, so nothing that matters may stand there."""
    for package in ("rlhf", "tasks"):
        lines = (ROOT / package / "__init__.py").read_text()
        assert "def " not in lines
        assert "class " not in lines


def test_templates_are_dependencies() -> None:
    """A file that code reads and nobody imports has to be named by a stage."""
    named = {dep for stage in STAGES.values() for dep in stage["deps"]}
    for template in sorted((ROOT / "rlhf").rglob("*.j2")):
        assert template.relative_to(ROOT).as_posix() in named
