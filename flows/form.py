"""The pipeline's form in Prefect: ten parameters first, the others by section, folded until they are changed.

Prefect's form cannot fold a section. A section that may be null is shown as two buttons, and as folded while
the first of them is chosen. The form writes "(Optional)" behind whatever the schema does not require.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pydantic import model_validator

from rlhf.settings import Section, Settings

FIRST = (
    "seed",
    "model.scale",
    "collect.labelers",
    "collect.prompts",
    "ppo.updates",
    "ppo.kl_coef",
    "ppo.learning_rate",
    "evaluate.judges",
    "evaluate.prompts",
    "register.min_rate",
)
FOLDED = "as in the params file"


class FormSettings(Settings):
    """Settings as the form sends them: dotted keys (`ppo.kl_coef`) and sections, null for a folded one."""

    @model_validator(mode="before")
    @classmethod
    def _nested(cls, values: Any) -> Any:
        if isinstance(values, Settings):
            return _set_values(values)
        if not isinstance(values, dict):
            return values
        nested = {key: value for key, value in values.items() if "." not in key and value is not None}
        for key, value in values.items():
            if "." in key:
                section, name = key.split(".", 1)
                inner = nested.get(section, {})
                if not isinstance(inner, dict):
                    raise ValueError(f"{section} is a section of parameters, got {inner!r}")
                nested[section] = {**inner, name: value}
        return nested


def form_values(settings: Settings) -> dict[str, Any]:
    """What the form starts with: the ten first parameters, and every section folded."""
    values = settings.model_dump(by_alias=True, mode="json")
    folded = {key: None if isinstance(value, dict) else value for key, value in values.items()}
    return {key: _value(values, key) for key in FIRST} | folded


def form_schema(schema: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """A flow's JSON schema as the form shows it, `settings` being its values."""
    schema = deepcopy(schema)
    definitions, values = schema["definitions"], settings.model_dump(by_alias=True, mode="json")
    root = definitions[FormSettings.__name__]
    shown: dict[str, Any] = {}
    for position, key in enumerate(FIRST):
        *section, name = key.split(".")
        holder = definitions[_reference(root["properties"][section[0]])] if section else root
        field = holder["properties"].pop(name)
        shown[key] = field | {"title": key, "position": position, "default": _value(values, key)}
        _name_unit(shown[key])
    rest = sorted(root["properties"].items(), key=lambda entry: not _reference(entry[1]))  # sections first
    for position, (key, field) in enumerate(rest, start=len(FIRST)):
        if name := _reference(field):
            _prepare(definitions, name, values[key])
            definitions[name]["title"] = "change"
            choices = [{"type": "null", "title": FOLDED}, {"$ref": f"#/definitions/{name}"}]
            shown[key] = {"title": key, "position": position, "default": None, "anyOf": choices}
            shown[key]["description"] = definitions[name].pop("description", "")
        else:
            shown[key] = field | {"title": key, "position": position, "default": values[key]}
            _name_unit(shown[key])
    root |= {"properties": shown, "required": list(shown)}
    schema["properties"]["settings"] |= {"title": "Parameters", "default": form_values(settings)}
    return schema | {"required": ["settings"]}


def _prepare(definitions: dict[str, Any], name: str, values: dict[str, Any]) -> None:
    """Give a section, and those inside it, the values of the params file; mark every field as required."""
    section = definitions[name]
    for key, field in section["properties"].items():
        field["default"] = values[key]
        field["title"] = key
        _name_unit(field)
        if inner := _reference(field):
            _prepare(definitions, inner, values[key])
    section["required"] = list(section["properties"])
    section.pop("additionalProperties", None)  # a program may send a parameter that the form shows further up


def _name_unit(field: dict[str, Any]) -> None:
    unit = field.get("unit")
    if unit:
        field["description"] = f"{field.get('description', '')} [{unit}]".strip()


def _reference(field: dict[str, Any]) -> str:
    return str(field.get("$ref", "")).removeprefix("#/definitions/")


def _value(values: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _set_values(section: Section) -> dict[str, Any]:
    """The values that were set, by alias."""
    fields = type(section).model_fields
    values = {fields[name].alias or name: getattr(section, name) for name in section.model_fields_set}
    return {key: _set_values(v) if isinstance(v, Section) else v for key, v in values.items()}
