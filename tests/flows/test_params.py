"""A recipe is laid over the defaults of the settings, whatever the checkout's params.yaml says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Workspace

from flows.params import plan, recipe_file, recipe_files, recipe_name
from rlhf.settings import Settings, SettingsError, load_settings

RECIPES = sorted((ROOT / "recipes").glob("*/params.yaml"))


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and values; the groups of labelers are one value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + key
        if isinstance(value, dict) and name != "collect.groups":
            flat |= leaves(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def delta(values: dict[str, Any]) -> Path:
    Path("recipes/mine").mkdir()
    path = Path("recipes/mine/params.yaml")
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("path", RECIPES, ids=recipe_name)
def test_a_recipe_holds_only_what_differs_and_has_a_page(path: Path) -> None:
    defaults, written = leaves(Settings().model_dump(by_alias=True)), leaves(yaml.safe_load(path.read_text()))
    assert [key for key, value in written.items() if defaults[key] == value] == []
    page = path.with_name("README.md").read_text()
    assert f"make run RECIPE={path.parent.name}" in page
    assert f"({path.parent.name}/README.md)" in (ROOT / "recipes/README.md").read_text()


@pytest.mark.parametrize("path", RECIPES, ids=recipe_name)
def test_a_recipe_does_not_depend_on_the_params_file(path: Path, workspace: Workspace) -> None:
    before = load_settings(path)
    workspace.set({"seed": 99, "sft.epochs": 0.25, "ppo.kl_coef": 0.3, "collect.groups": {"expert": 1.0}})
    changes = {"ingest.path": "somewhere"}  # no recipe sets it
    assert plan(path.parent.name, None, changes).model_copy(update={"ingest": before.ingest}) == before


def test_what_a_recipe_leaves_out_is_the_default(workspace: Workspace) -> None:
    workspace.set({"seed": 99})
    delta({"ppo": {"updates": 3}, "collect": {"groups": {"novice": 1.0}}})
    settings = plan("mine", None, {"ppo.clip": 0.3})
    defaults = Settings()
    assert settings.ppo == defaults.ppo.model_copy(update={"updates": 3, "clip": 0.3})
    assert settings.collect.groups == {"novice": 1.0}  # the groups of the default are not mixed in
    assert (settings.seed, settings.sft) == (defaults.seed, defaults.sft)


def test_the_shipped_recipes_are_the_runs_of_the_log() -> None:
    """What their figures in dev/LOG.md were made with."""
    feedback, hacking = (load_settings(path) for path in RECIPES)
    assert (feedback.ppo.best_of_n, hacking.ppo.best_of_n) == (16, 16)
    assert (feedback.base.scale, feedback.base.steps, feedback.reward.judge_contrast) == ("0.3M", 300, 0)
    assert feedback.ppo.judge_tolerance is None
    assert hacking.collect.groups == {"novice": 0.8, "spammer": 0.2}
    assert (hacking.ppo.kl_coef, hacking.ppo.missing_eos, hacking.ppo.judge) == (0.0, None, "simulated")


def test_a_recipe_is_named_by_its_folder_or_a_path(workspace: Workspace) -> None:
    path = delta({"seed": 5})
    assert recipe_file("mine") == path
    assert recipe_file(str(path)) == path
    assert recipe_name(path) == "mine"
    assert recipe_name(Path("elsewhere/trial.yaml")) == "trial"
    assert path in recipe_files()


def test_a_wrong_name_says_which_recipes_there_are(workspace: Workspace) -> None:
    with pytest.raises(
        SettingsError, match=r"no such recipe or file; recipes/ has qa-feedback, reward-hacking$"
    ):
        plan("reward_hacking", None, {})
    with pytest.raises(SettingsError, match="no such recipe or file"):
        plan("qa-feedback.yaml", None, {})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"ppo": {"kl_coeff": 0}},
            "recipes/mine/params.yaml: unknown key 'ppo.kl_coeff'; did you mean 'ppo.kl_coef'?",
        ),
        ({"ppo": {"kl_coef": -1}}, "recipes/mine/params.yaml: ppo.kl_coef: Input should be greater than"),
        ({"ppo": 3}, "recipes/mine/params.yaml: ppo: "),
    ],
)
def test_a_bad_delta_ends_in_one_line(values: dict[str, Any], said: str, workspace: Workspace) -> None:
    delta(values)
    with pytest.raises(SettingsError) as caught:
        plan("mine", None, {})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
