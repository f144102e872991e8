"""The parameters of a run: from a params file or a recipe, the form, `--set` and `--data`.

Whatever they come from, they are validated against `rlhf.settings.Settings` before anything starts.
params.yaml is the checkout's own file, which a run may change. A recipe, `recipes/<name>/params.yaml`, holds
only what differs from the defaults of `Settings`, so that its name means the same run whatever a user has
changed in params.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rlhf.data.files import written_beside
from rlhf.data.sources import source_hash
from rlhf.judges.endpoints import key_for, load_allowed
from rlhf.settings import Section, Settings, SettingsError, check_settings, known_keys, load_settings

PARAMS = Path("params.yaml")  # its name in the checkout, in a worktree and in the folder of a recipe
RECIPES = Path("recipes")


def plan(recipe: str | None, data: str | None, changes: dict[str, Any]) -> Settings:
    """The validated parameters of a run; nothing is written.

    Args:
        recipe: name of a folder in `recipes/`, or a path to a params file; None takes params.yaml.
        data: file or folder that `ingest` reads; its hash becomes a parameter.
        changes: dotted keys and the values to set.

    Raises:
        SettingsError: unknown recipe or key, a bad value, or data that is not there.
        DataError: a language model that services.yaml does not allow.
    """
    path = recipe_file(recipe) if recipe else PARAMS
    values = load_settings(path).model_dump(by_alias=True)
    for key, value in changes.items():
        _set(values, key, value)
    origin = f"{path} with --set" if changes else str(path)
    settings = with_data(check_settings(values, origin), data, origin)
    check_endpoint(settings)
    return settings


def complete(settings: Settings, recipe: str | None) -> Settings:
    """The settings of a form or a program, completed from the recipe or else from params.yaml.

    Raises:
        SettingsError: there is no such recipe, or the file is not valid.
    """
    if _is_whole(settings):
        base = settings  # the file does not matter, and need not exist
    else:
        base = load_settings(recipe_file(recipe) if recipe else PARAMS)
    return check_settings(_over(base, settings).model_dump(by_alias=True), "the parameters")


def with_data(settings: Settings, data: str | None, origin: str) -> Settings:
    """The parameters with the path and the hash of the data that `ingest` reads.

    Raises:
        SettingsError: data that is not there, or none where the source needs some.
    """
    source = settings.ingest.source
    if data is not None:
        path = Path(data).expanduser().resolve()
        if not path.exists():
            raise SettingsError(f"--data {data}: no such file or folder")
        if source == "builtin":
            raise SettingsError(f"--data {data}: {origin} reads no file (ingest.source is builtin)")
        pinned = settings.ingest.model_copy(update={"path": str(path), "sha256": source_hash(path)})
        settings = settings.model_copy(update={"ingest": pinned})
    if source != "builtin" and not settings.ingest.path:
        raise SettingsError(f"{origin}: ingest.source {source} needs data: add --data PATH")
    return settings


def check_endpoint(settings: Settings) -> None:
    """Refuse a language model, or a key for it, that services.yaml does not allow.

    Raises:
        DataError: the host or the variable is not allowed.
    """
    llm = settings.evaluate.llm
    if "llm" in settings.evaluate.judges and llm.url:
        key_for(llm.url, llm.key_variable, load_allowed())


def recipe_files() -> list[Path]:
    """The params file of every recipe, by name."""
    return sorted(RECIPES.glob(f"*/{PARAMS}"))


def recipe_file(recipe: str) -> Path:
    """The params file of a recipe, by its name or by a path to a params file.

    Raises:
        SettingsError: there is none; the error names those in `recipes/`.
    """
    for path in (RECIPES / recipe / PARAMS, Path(recipe)):
        if path.is_file():
            return path
    known = ", ".join(recipe_name(path) for path in recipe_files()) or "none yet"
    raise SettingsError(f"--recipe {recipe}: no such recipe or file; {RECIPES}/ has {known}")


def recipe_name(path: Path) -> str:
    """The name of the recipe with this params file: its folder's, or the file's own where it stands alone."""
    return path.parent.name if path.name == PARAMS.name and path.parent.name else path.stem


def parse_changes(changes: list[str]) -> dict[str, Any]:
    """Changes as they are written, `KEY=VALUE`, by their dotted keys; values are YAML (`3`, `1e-3`, `null`).

    Raises:
        SettingsError: a change without a key or `=`, or with a value that is not YAML.
    """
    values = {}
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign or not key:
            raise SettingsError(f"--set {change}: expected KEY=VALUE, such as ppo.kl_coef=0.1")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise SettingsError(f"--set {change}: the value is not valid YAML") from None
    return values


def write_params(path: Path, settings: Settings) -> list[str]:
    """Write the values that differ into a params file, comments kept; returns `key: old -> new` lines."""
    from ruamel.yaml import YAML

    old, new = load_settings(path).model_dump(by_alias=True), settings.model_dump(by_alias=True)
    changed = [key for key in known_keys() if _get(old, key) != _get(new, key)]
    if changed:
        yaml_file = YAML()
        yaml_file.preserve_quotes = True
        yaml_file.representer.add_representer(  # by default ruamel writes None as an empty value
            type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
        )
        values = yaml_file.load(path) or {}
        for key in changed:
            _set(values, key, _get(new, key), create=True)
        with written_beside(path) as beside:
            yaml_file.dump(values, beside)
    return [f"{key}: {_get(old, key)} -> {_get(new, key)}" for key in changed]


def _get(values: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _set(values: dict[str, Any], key: str, value: Any, create: bool = False) -> None:
    *sections, last = key.split(".")
    for part in sections:
        if create:
            values.setdefault(part, {})
        inner = values.get(part)
        if not isinstance(inner, dict):
            raise SettingsError(f"--set {key}: no such parameter; `python -m rlhf.settings` lists them all")
        values = inner
    values[last] = value


def _is_whole(section: Section) -> bool:
    """Whether every value was set explicitly."""
    values = (getattr(section, name) for name in type(section).model_fields)
    inner = all(_is_whole(value) for value in values if isinstance(value, Section))
    return inner and section.model_fields_set >= set(type(section).model_fields)


def _over(base: Section, changes: Section) -> Section:
    """`base` with the values that were set explicitly in `changes`."""
    values: dict[str, Any] = {}
    for name in changes.model_fields_set:
        value = getattr(changes, name)
        values[name] = _over(getattr(base, name), value) if isinstance(value, Section) else value
    return base.model_copy(update=values)
