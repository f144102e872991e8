"""The parameters of a run: from a params file or a recipe, the form, `--set` and `--data`.

Whatever they come from, they are validated against `rlhf.settings.Settings` before anything starts.
params.yaml is the checkout's own file, which a run may change. A recipe, `recipes/<name>/params.yaml`, holds
only what differs from the defaults of `Settings`, so that its name means the same run whatever a user has
changed in params.yaml.
"""

from __future__ import annotations

import argparse
from glob import has_magic
from pathlib import Path
from typing import Any

from flows.checkout import refuse_conflict
from rlhf.data.base_files import local_folder, local_hash, refuse_other_content, template_file
from rlhf.data.files import written_beside
from rlhf.judges.endpoints import key_for, load_allowed
from rlhf.settings import (
    Ingest,
    Pretrained,
    Section,
    Settings,
    SettingsError,
    YamlError,
    check_settings,
    load_settings,
    renamed,
    yaml_value,
)

PARAMS = Path("params.yaml")  # its name in the checkout, in a worktree and in the folder of a recipe
RECIPES = Path("recipes")
BASE_TYPE = "base.type"  # with another type, the section has other keys


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that plans a run: --recipe, --data and --set."""
    add_recipe(parser)
    parser.add_argument(
        "--data", metavar="PATH", help="file, folder or pattern of files with the data that the run reads"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change a parameter; may be repeated"
    )


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """The option --recipe."""
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="a recipe, by the name of its folder in recipes/ or the path of a params file",
    )


def plan(recipe: str | None, data: str | None, changes: dict[str, Any]) -> Settings:
    """The validated parameters of a run; nothing is written.

    Args:
        recipe: name of a folder in `recipes/`, or a path to a params file; None takes params.yaml.
        data: file, folder or pattern that `ingest` reads in place of `ingest.path`; its hash becomes a
            parameter.
        changes: dotted keys and the values to set.

    Raises:
        SettingsError: unknown recipe or key, a bad value, or data that is not there.
        DataError: a merge has left its conflict in the file, or a language model that services.yaml does not
            allow.
    """
    path = recipe_file(recipe) if recipe else PARAMS
    refuse_conflict(path)
    values = load_settings(path).model_dump(by_alias=True)
    for key in sorted(
        changes, key=lambda key: key != BASE_TYPE
    ):  # first the type, which says what keys there are
        _set(values, key, changes[key])
    if changes.keys() & {"base.path", "base.template"} and "sha256" in values["base"]:
        values["base"]["sha256"] = changes.get("base.sha256")  # that of another folder
    if changes.keys() & {"ingest.path", "ingest.revision", "ingest.sources"}:
        values["ingest"]["sha256"] = changes.get("ingest.sha256")  # that of other data
    origin = f"{path} with your changes" if changes else str(path)
    settings = with_files(check_settings(values, origin), data, origin)
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
        path = recipe_file(recipe) if recipe else PARAMS
        refuse_conflict(path)
        base = load_settings(path)
    return check_settings(_over(base, settings).model_dump(by_alias=True), "the parameters")


def with_files(settings: Settings, data: str | None, origin: str) -> Settings:
    """The parameters with the paths and the hashes of the data and of a base model on this machine.

    Raises:
        SettingsError: data that is not there, or none where the source needs some.
        DataError: a folder or a template of the base that is not there, or with other content.
    """
    source = settings.ingest.source
    if data is not None:
        path = Path(data).expanduser().resolve()
        if not path.exists() and not has_magic(data):
            raise SettingsError(f"{data}: no such file or folder")
        if source == "builtin":
            raise SettingsError(
                f"{data}: {origin} reads no file (ingest.source is builtin); set ingest.source=files"
            )
        if settings.ingest.sources:
            pinned = _pinned(_within(settings.ingest, path, f"{data}: {origin}"))
        else:
            from rlhf.data.sources import source_hash  # here, since it loads the readers of all formats

            pinned = settings.ingest.model_copy(
                update={"path": str(path), "revision": None, "sha256": source_hash(path)}
            )
        settings = settings.model_copy(update={"ingest": pinned})
    elif settings.ingest.sources:
        settings = settings.model_copy(update={"ingest": _pinned(settings.ingest)})
    if source != "builtin" and not settings.ingest.path and not settings.ingest.sources:
        raise SettingsError(
            f"{origin}: ingest.source {source} needs data: add its path (--data PATH, or DATA=PATH with make)"
        )
    base = settings.base
    if isinstance(base, Pretrained):
        folder, template = local_folder(base), template_file(base)
        places = {"path": folder, "template": template}
        update: dict[str, Any] = {key: str(path.resolve()) for key, path in places.items() if path}
        if base.sha256:
            refuse_other_content(base)
        else:
            update["sha256"] = local_hash(base)
        settings = settings.model_copy(update={"base": base.model_copy(update=update)})
    return settings


def _within(ingest: Ingest, folder: Path, origin: str) -> Ingest:
    """The settings with the sources of a recipe in a folder of this machine.

    Raises:
        SettingsError: it is no folder, or a source has a whole path or is on the Hub already.
    """
    whole = any(source.revision or Path(source.path).is_absolute() for source in ingest.sources)
    if whole or not folder.is_dir():
        raise SettingsError(
            f"{origin} names its data in ingest.sources; keep one of them, or name a folder where all of "
            "those have relative paths"
        )
    sources = [source.model_copy(update={"path": str(folder / source.path)}) for source in ingest.sources]
    return ingest.model_copy(update={"sources": sources})


def _pinned(ingest: Ingest) -> Ingest:
    """The settings of several sources with whole paths to those on this machine, and the hash of these.

    Sources on the Hub are pinned by their commits; where there is one, the hash of all is not known before it
    is fetched.

    Raises:
        SettingsError: a path that is not there.
    """
    sources = []
    for source in ingest.sources:
        path = Path(source.path).expanduser()
        if source.revision is None and not has_magic(source.path) and not path.exists():
            raise SettingsError(
                f"ingest.sources: {source.path}: no such file or folder; a folder that holds them all can be "
                "named by DATA or --data"
            )
        whole = source.path if source.revision else str(Path.cwd() / path)
        sources.append(source.model_copy(update={"path": whole}))
    from rlhf.data.sources import source_hash

    pins = (
        {}
        if any(source.revision for source in sources)
        else {"sha256": source_hash([s.path for s in sources])}
    )
    if ingest.sha256 not in (None, pins.get("sha256")):
        pins = {}  # the stage says that the data changed
    return ingest.model_copy(update={"sources": sources, **pins})


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
            raise SettingsError(
                f"{change}: expected KEY=VALUE, such as ppo.kl_coef=0.1; make's SET parts its "
                "changes at spaces, so a value with a space goes into params.yaml"
            )
        try:
            values[key] = yaml_value(value)
        except YamlError as error:
            raise SettingsError(
                f"{change}: the value is not valid YAML ({error}); make's SET parts its changes at spaces, "
                "so a value with a space goes into params.yaml"
            ) from None
        if isinstance(values[key], dict):
            for name, meaning in values[key].items():
                inner, colon, said = str(name).partition(":")
                if colon and meaning is None:
                    raise SettingsError(
                        f"{change}: {name} has no space behind its colon, so it is no mapping; write "
                        f"{key}.{inner}={said}"
                    )
    return values


def write_params(path: Path, settings: Settings) -> list[str]:
    """Write the values that differ into a params file, comments kept; returns `key: old -> new` lines."""
    from ruamel.yaml import YAML

    changed = _differences(load_settings(path), settings)
    if changed:
        yaml_file = YAML()
        yaml_file.preserve_quotes = True
        yaml_file.representer.add_representer(  # by default ruamel writes None as an empty value
            type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
        )
        values = yaml_file.load(path) or {}
        for key, (_, new) in changed.items():
            *sections, last = key.split(".")
            inner = values
            for section in sections:
                inner = inner.setdefault(section, {})
            inner[last] = new
        with written_beside(path) as beside:
            yaml_file.dump(values, beside)
    return [f"{key}: {old} -> {new}" for key, (old, new) in changed.items()]


def _differences(old: Section, new: Section, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old, new) of what differs; a section of another type is one value."""
    if type(old) is not type(new):
        return {prefix.rstrip("."): (old.model_dump(by_alias=True), new.model_dump(by_alias=True))}
    differ: dict[str, tuple[Any, Any]] = {}
    for name, field in type(old).model_fields.items():
        key, before, after = prefix + (field.alias or name), getattr(old, name), getattr(new, name)
        if isinstance(before, Section) and isinstance(after, Section):
            differ |= _differences(before, after, f"{key}.")
        elif before != after:
            differ[key] = (_plain(before), _plain(after))
    return differ


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.model_dump(by_alias=True) if isinstance(value, Section) else value


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for number, part in enumerate(sections):
        if number and values.get(part) is None:
            values[part] = {}  # a section that may be null, such as base.lora
        inner = values.get(part)
        if not isinstance(inner, dict):
            hint = renamed(key) if number == 0 else None
            hint = hint or "no such parameter; `python -m rlhf.settings` lists them all"
            raise SettingsError(f"{key}: {hint}")
        values = inner
    if key == BASE_TYPE and values[last] != value:
        values.clear()  # the parameters of the other type
    values[last] = value


def _is_whole(section: Section) -> bool:
    """Whether every value was set explicitly."""
    values = (getattr(section, name) for name in type(section).model_fields)
    inner = all(_is_whole(value) for value in values if isinstance(value, Section))
    return inner and section.model_fields_set >= set(type(section).model_fields)


def _over(base: Section, changes: Section) -> Section:
    """`base` with the values that were set explicitly in `changes`.

    Raises:
        SettingsError: they are of another type of base, and do not say so.
    """
    values: dict[str, Any] = {}
    if type(changes) is not type(base):
        if "type" in changes.model_fields_set:
            return changes
        strange = sorted(changes.model_fields_set - set(type(base).model_fields))
        if strange:
            raise SettingsError(
                f"the parameters: base.type is {getattr(base, 'type', '')} in the params file, which has no "
                f"{strange[0]}: set base.type too"
            )
    for name in changes.model_fields_set:
        value = getattr(changes, name)
        values[name] = _over(getattr(base, name), value) if isinstance(value, Section) else value
    return base.model_copy(update=values)
