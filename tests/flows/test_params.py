"""A recipe is laid over the defaults of the settings, whatever the checkout's params.yaml says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Workspace

from flows.params import parse_changes, plan, recipe_file, recipe_files, recipe_name, with_files, write_params
from rlhf.data.errors import DataError
from rlhf.settings import Lora, Pretrained, Scratch, Settings, SettingsError, load_settings

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
    if written.get("base.type") == "pretrained":  # a section with other keys
        defaults |= leaves(Pretrained(path="-", lora=Lora()).model_dump(), "base.") | {"base.type": "scratch"}
    assert [key for key, value in written.items() if key in defaults and defaults[key] == value] == []
    page = path.with_name("README.md").read_text()
    assert f"make run RECIPE={path.parent.name}" in page
    assert f"({path.parent.name}/README.md)" in (ROOT / "recipes/README.md").read_text()


@pytest.mark.parametrize("path", RECIPES, ids=recipe_name)
def test_a_recipe_does_not_depend_on_the_params_file(path: Path, workspace: Workspace) -> None:
    before = load_settings(path)
    workspace.set({"seed": 99, "sft.epochs": 0.25, "ppo.kl_coef": 0.3, "collect.groups": {"expert": 1.0}})
    changes = {"ingest.path": "somewhere", "ingest.sources": []}  # data that is not here
    planned = plan(path.parent.name, None, changes).model_copy(update={"ingest": before.ingest})
    if isinstance(before.base, Pretrained):  # a template's path is made absolute and its content hashed
        before = with_files(before.model_copy(update={"ingest": Settings().ingest}), None, "-").model_copy(
            update={"ingest": before.ingest}
        )
    assert planned == before


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
    names = ("chat", "qa-feedback", "reward-hacking")
    chat, feedback, hacking = (load_settings(recipe_file(name)) for name in names)
    assert (chat.ingest.chat, chat.base.template) == (True, "chatml")
    assert (feedback.ppo.best_of_n, hacking.ppo.best_of_n) == (16, 16)
    assert (feedback.base.scale, feedback.base.steps, feedback.reward.judge_contrast) == ("0.3M", 300, 0)
    assert feedback.ppo.judge_tolerance is None
    assert hacking.collect.groups == {"novice": 0.8, "spammer": 0.2}
    assert (hacking.ppo.kl_coef, hacking.ppo.missing_eos, hacking.ppo.judge) == (0.0, None, "simulated")


def model_folder(content: str = "weights") -> Path:
    folder = Path("bases/mine")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(content)
    return folder.resolve()


def test_another_type_of_base_has_other_parameters(workspace: Workspace) -> None:
    """Whichever is set first, the type or a parameter of it; those of the type before are gone."""
    folder = model_folder()
    words = ["base.path=bases/mine", "base.context=64", "base.type=pretrained"]
    settings = plan(None, None, parse_changes(words))
    assert settings == plan(None, None, parse_changes(words[::-1]))
    assert isinstance(settings.base, Pretrained)
    assert (settings.base.path, settings.base.context) == (str(folder), 64)
    assert plan(None, None, {"base.type": "scratch"}) == plan(None, None, {})  # the type that it is
    delta({"base": {"type": "pretrained", "path": "bases/mine", "context": 64}})
    assert plan("mine", None, {}).base == settings.base
    back = plan("mine", None, {"base.type": "scratch", "base.scale": "1M"})
    assert back.base == Scratch(scale="1M")


def test_a_base_of_another_type_is_written_whole(workspace: Workspace) -> None:
    model_folder()
    path = Path("params.yaml")
    path.write_text("# kept\n" + path.read_text())
    before = load_settings()
    settings = plan(None, None, {"base.type": "pretrained", "base.path": "bases/mine", "base.lora.rank": 8})
    lines = write_params(path, settings)
    assert [line.split(":")[0] for line in lines] == ["base"]
    assert load_settings() == settings
    assert yaml.safe_load(path.read_text())["base"] == settings.base.model_dump()
    assert path.read_text().startswith("# kept\n")
    assert write_params(path, plan(None, None, {"base.lora.rank": 4})) == ["base.lora.rank: 8 -> 4"]
    assert write_params(path, plan(None, None, {"base.lora": None}))[0].startswith("base.lora: {'rank': 4,")
    write_params(path, before)
    assert load_settings() == before


def test_a_folder_with_other_content_is_another_base(workspace: Workspace) -> None:
    model_folder()
    Path("turns.jinja").write_text("{{ messages }}")
    named = {"base.type": "pretrained", "base.path": "bases/mine"}
    first = plan(None, None, named).base
    write_params(Path("params.yaml"), plan(None, None, named))
    assert plan(None, None, {}).base == first
    templated = plan(None, None, {"base.template": "turns.jinja"}).base
    assert templated.template == str(Path("turns.jinja").resolve())
    Path("turns.jinja").write_text("{{ other }}")
    hashes = [first.sha256, templated.sha256, plan(None, None, {"base.template": "turns.jinja"}).base.sha256]
    model_folder("other weights")
    with pytest.raises(
        DataError, match=r"is not what base\.sha256 says .* set base\.sha256 to null"
    ) as caught:
        plan(None, None, {})
    assert "\n" not in str(caught.value)
    again = plan(None, None, {"base.path": "bases/mine"}).base.sha256
    assert again == plan(None, None, {"base.sha256": None}).base.sha256
    assert len({*hashes, again}) == 4
    assert all(digest and len(digest) == 64 for digest in hashes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"base.path": "x"},
            "params.yaml with your changes: unknown key 'base.path' where base.type is scratch, which",
        ),
        ({"base.type": "pretrained", "base.scale": "1M"}, "base.path: Field required (and 1 more)"),
        ({"base.type": "pretrained", "base.path": "./none"}, "base.path: no such folder: ./none"),
        ({"base.type": "pretrained", "base.path": "a/b/c"}, "base.path: no such folder: a/b/c"),
        (
            {"base.type": "pretrained", "base.path": "a/b", "base.template": "none.jinja"},
            "base.template: no such file: none.jinja",
        ),
        ({"model.scale": "1M"}, "model.scale: model.scale is base.scale now"),
        (
            {"pretrain.step": 3},
            "pretrain.step: its parameters are in the section `base` now: base.steps,",
        ),
        ({"base.lora.rank": 0}, "base.lora.rank: Input should be greater than or equal to 1, got 0"),
    ],
)
def test_a_base_that_cannot_be_ends_in_one_line(
    changes: dict[str, Any], said: str, workspace: Workspace
) -> None:
    with pytest.raises((SettingsError, DataError)) as caught:
        plan(None, None, changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_is_named_by_its_folder_or_a_path(workspace: Workspace) -> None:
    path = delta({"seed": 5})
    assert recipe_file("mine") == path
    assert recipe_file(str(path)) == path
    assert recipe_name(path) == "mine"
    assert recipe_name(Path("elsewhere/trial.yaml")) == "trial"
    assert path in recipe_files()


def test_a_wrong_name_says_which_recipes_there_are(workspace: Workspace) -> None:
    with pytest.raises(
        SettingsError,
        match=r"no such recipe or file; recipes/ has chat, helpful-harmless, .*, tldr, ultrafeedback$",
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
