"""Every recipe runs whole, tiny and on made-up rows in the true schema of its data."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Workspace

from flows.params import PARAMS, plan, write_params
from flows.smoke import smoke
from rlhf.data.files import read_json

RECIPES = sorted(path.parent.parent.name for path in ROOT.glob("recipes/*/smoke/params.yaml"))
STAGES = (
    *("ingest", "prepare", "validate", "base", "sft", "collect"),
    *("validate-comparisons", "reward", "ppo", "evaluate"),
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_runs_small(recipe: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_STATE", str(workspace.path / "state"))
    small = smoke(recipe)
    settings = plan(recipe, small.data, small.changes)
    assert settings.model_dump(by_alias=True)["register"]["model_name"] == f"smoke-{recipe}"
    write_params(Path(PARAMS), settings)
    assert yaml.safe_load(Path(PARAMS).read_text())["base"]["type"] == settings.base.type
    for stage in STAGES:
        workspace.stage(stage)
    assert read_json("metrics/evaluation.json")["n"] >= 10


def test_every_recipe_has_a_smoke_test() -> None:
    assert sorted(path.parent.name for path in ROOT.glob("recipes/*/params.yaml")) == RECIPES
