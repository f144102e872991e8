"""The pipeline's form in Prefect: ten parameters first, the others by section, folded until they are changed.

Prefect's form cannot fold a section. A section that may be null is shown as two buttons, and as folded while
the first of them is chosen; one of several types, such as `base`, has a button for each. The form writes
"(Optional)" behind whatever the schema does not require.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pydantic import model_validator

from rlhf.settings import Section, Settings

FIRST = (
    "seed",
    "base",
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
    for key in (key for key in FIRST if "." in key):  # out of its section
        section, name = key.split(".")
        holder = definitions[_references(root["properties"][section])[0]]
        root["properties"][key] = holder["properties"].pop(name)
    rest = sorted(root["properties"].items(), key=lambda entry: not _references(entry[1]))  # sections first
    fields = {key: root["properties"][key] for key in FIRST} | dict(rest)
    for position, (key, field) in enumerate(fields.items()):
        value = _value(values, key)
        if names := _references(field):
            field = _folded(definitions, names, value)
        else:
            field |= {"default": value}
            _name_unit(field)
        shown[key] = field | {"title": key, "position": position}
    root |= {"properties": shown, "required": list(shown)}
    schema["properties"]["settings"] |= {"title": "Parameters", "default": form_values(settings)}
    return schema | {"required": ["settings"]}


def _folded(definitions: dict[str, Any], names: list[str], values: dict[str, Any]) -> dict[str, Any]:
    """The field of a section, or of one that is of several types: as in the params file, or changed."""
    for name in names:
        kind = definitions[name]["properties"].get("type", {}).get("default")
        _prepare(definitions, name, values if values.get("type") == kind else {})
        definitions[name]["title"] = kind or "change"
    kinds = [definitions[name] for name in names]
    descriptions = [kind.pop("description", "") for kind in kinds]
    if len(kinds) > 1:
        descriptions = [f"{kind['title']}: {text}" for kind, text in zip(kinds, descriptions, strict=True)]
    return {
        "default": None,
        "anyOf": [
            {"type": "null", "title": FOLDED},
            *({"$ref": f"#/definitions/{name}"} for name in names),
        ],
        "description": " ".join(descriptions),
    }


def _prepare(definitions: dict[str, Any], name: str, values: dict[str, Any]) -> None:
    """Give a section, and those inside it, the values of the params file; mark every field as required.

    Args:
        values: of the section; a key that is not there keeps its default.
    """
    section = definitions[name]
    for key, field in section["properties"].items():
        if key in values:
            field["default"] = values[key]
        field["title"] = key
        _name_unit(field)
        if "const" in field:  # a form has no field for a constant
            field["enum"] = [field.pop("const")]
        inner = _references(field)
        if "anyOf" in field and inner:
            field["anyOf"].sort(key=lambda choice: choice.get("type") != "null")  # folded while it is null
        if inner:
            _prepare(definitions, inner[0], values.get(key) or {})
        for name_of_item in _references(field.get("items", {})):  # of a list, such as ingest.sources
            _prepare(definitions, name_of_item, {})
    section["required"] = list(section["properties"])
    section.pop("additionalProperties", None)  # a program may send a parameter that the form shows further up


def _name_unit(field: dict[str, Any]) -> None:
    unit = field.get("unit")
    if unit and f"[{unit}]" not in field.get("description", ""):
        field["description"] = f"{field.get('description', '')} [{unit}]".strip()


def _references(field: dict[str, Any]) -> list[str]:
    """The sections that a field may be: itself, or the types of a union."""
    places = [field, *field.get("oneOf", []), *field.get("anyOf", [])]
    return [place["$ref"].removeprefix("#/definitions/") for place in places if "$ref" in place]


def _value(values: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _set_values(section: Section) -> dict[str, Any]:
    """The values that were set, by alias."""
    fields = type(section).model_fields
    values = {fields[name].alias or name: getattr(section, name) for name in section.model_fields_set}
    return {key: _set_values(v) if isinstance(v, Section) else v for key, v in values.items()}
