"""Prefect's form: ten parameters first, the others folded; what it sends becomes the settings of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import Workspace
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.form import FIRST, FormSettings, form_schema, form_values
from flows.loop import feedback
from flows.params import complete, plan, write_params
from flows.pipeline import rlhf, validate_data
from rlhf.settings import (
    Pretrained,
    Scratch,
    Settings,
    SettingsError,
    check_settings,
    known_keys,
    load_settings,
)

SETTINGS = Settings()


def shown(flow=rlhf, settings=SETTINGS):
    return form_schema(parameter_schema(flow).model_dump(), settings)


@pytest.mark.parametrize("flow", [rlhf, validate_data, feedback])
def test_ten_parameters_are_first_and_none_of_them_is_called_optional(flow) -> None:
    schema = shown(flow)
    root = schema["definitions"]["FormSettings"]
    order = sorted(root["properties"], key=lambda key: root["properties"][key]["position"])
    assert tuple(order[:10]) == FIRST
    assert root["required"] == order  # the form says "(Optional)" of what is not required
    assert "settings" in schema["required"]
    for key in order[10:]:
        field = root["properties"][key]
        assert key in ("threads", "processes") or field["anyOf"][0]["type"] == "null"  # folded
    assert root["properties"]["base"]["anyOf"][0]["type"] == "null"
    for name, definition in schema["definitions"].items():
        if name != "FormSettings":
            assert definition["required"] == list(definition["properties"])
    names = [key for key in known_keys() if key not in FIRST]
    for key in names:  # and nothing is lost
        definition = root
        *sections, last = key.split(".")
        places = [definition]
        for part in sections:
            fields = [place["properties"][part] for place in places if part in place["properties"]]
            fields = [field.get("items", field) for field in fields]
            choices = [choice for field in fields for choice in field.get("anyOf", [field])]
            places = [
                schema["definitions"][choice["$ref"].removeprefix("#/definitions/")]
                for choice in choices
                if "$ref" in choice
            ]
        assert any(last in place["properties"] for place in places), key


def test_the_form_as_it_opens_is_valid_and_bounds_hold() -> None:
    schema = shown()
    values = form_values(SETTINGS)
    assert validate({"settings": values}, schema, raise_on_error=True) == []
    with pytest.raises(ValidationError, match=r"ppo\.kl_coef.*-1 is less than the minimum"):
        validate({"settings": values | {"ppo.kl_coef": -1}}, schema, raise_on_error=True)
    section = {key: value for key, value in SETTINGS.ppo.model_dump().items() if f"ppo.{key}" not in FIRST}
    assert validate({"settings": values | {"ppo": section}}, schema, raise_on_error=True) == []
    with pytest.raises(ValidationError):
        validate({"settings": values | {"ppo": section | {"gamma": 7}}}, schema, raise_on_error=True)


def test_what_the_form_sends_is_laid_over_the_params_file(workspace: Workspace) -> None:
    workspace.set({"ppo.updates": 7, "sft.epochs": 0.25, "collect.groups": {"expert": 1.0}})
    present = load_settings()
    sent = form_values(present) | {"ppo.kl_coef": 0.2, "sft": None, "collect": {"overlap": 3}}
    settings = complete(FormSettings.model_validate(sent), None)
    assert type(settings) is Settings
    assert settings == plan(None, None, {"ppo.kl_coef": 0.2, "collect.overlap": 3})
    assert complete(FormSettings(), None) == present
    assert complete(FormSettings.model_validate(present), None) == present
    assert complete(SETTINGS.model_copy(), None) == present  # nothing was set


def test_a_recipe_is_what_is_laid_under(workspace: Workspace) -> None:
    recipe = plan("reward-hacking", None, {})
    settings = complete(FormSettings.model_validate(form_values(recipe)), "reward-hacking")
    assert settings == recipe
    with pytest.raises(SettingsError, match="no such recipe"):
        complete(FormSettings(), "nothing")
    whole = yaml.safe_load((workspace.path / "params.yaml").read_text())
    assert complete(Settings.model_validate(whole), "nothing") == load_settings()  # nothing is missing


BROUGHT = {"type": "pretrained", "path": "/models/mine", "context": 64, "lora": {"rank": 8}}


def test_a_base_of_either_type_can_be_chosen_and_has_its_values() -> None:
    brought = check_settings({"base": BROUGHT}, "here")
    for settings, kind in ((SETTINGS, "scratch"), (brought, "pretrained")):
        schema = shown(settings=settings)
        field = schema["definitions"]["FormSettings"]["properties"]["base"]
        kinds = [schema["definitions"][c["$ref"].removeprefix("#/definitions/")] for c in field["anyOf"][1:]]
        assert [kind["title"] for kind in kinds] == ["scratch", "pretrained"]
        for fields in (kind["properties"] for kind in kinds):
            own = fields["type"]["default"] == kind
            assert fields["type"]["enum"] == [fields["type"]["default"]]
            assert fields["lora"]["anyOf"][0] == {"type": "null"}  # folded
            values = settings.base.model_dump() if own else {}
            assert {key: fields[key]["default"] for key in values} == values
        values = form_values(settings)
        for base in (None, {"type": "scratch"} | Scratch().model_dump(), Pretrained(path="a/b").model_dump()):
            assert validate({"settings": values | {"base": base}}, schema, raise_on_error=True) == []
        with pytest.raises(ValidationError):
            validate({"settings": values | {"base": Scratch().model_dump() | {"steps": 0}}}, schema, True)


def test_a_base_that_is_sent_is_laid_over_that_of_the_params_file(workspace: Workspace) -> None:
    present = load_settings().base.model_copy(update={"scale": "1M"})
    assert complete(FormSettings.model_validate({"base.scale": "1M"}), None).base == present
    sent = complete(FormSettings.model_validate({"base": BROUGHT}), None)
    assert sent.base == check_settings({"base": BROUGHT}, "here").base
    write_params(Path("params.yaml"), sent)
    partial = complete(FormSettings.model_validate({"base": {"context": 32}}), None).base
    assert partial == sent.base.model_copy(update={"context": 32})
    assert complete(FormSettings.model_validate({"base": {"type": "scratch"}}), None).base == Scratch()
    with pytest.raises(
        SettingsError, match=r"base\.type is pretrained in the params file, which has no scale"
    ):
        complete(FormSettings.model_validate({"base.scale": "1M"}), None)
    whole = check_settings({"base": BROUGHT}, "here")
    assert complete(FormSettings.model_validate(whole), None).base == whole.base


@pytest.mark.parametrize("section", [5, [1], "text"])
def test_a_section_that_is_a_value_is_refused_in_words(section: object) -> None:
    with pytest.raises(ValueError, match="ppo is a section of parameters"):
        FormSettings.model_validate({"ppo": section, "ppo.kl_coef": 0.1})
