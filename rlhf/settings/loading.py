"""A params file read and checked against the tree; what is wrong with it in one line."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlhf.settings.models import BASES
from rlhf.settings.section import VALUE, SettingsError, shown
from rlhf.settings.tree import Settings, known_keys
from rlhf.settings.yaml_text import YamlError, yaml_value


def load_settings(path: Path | str = "params.yaml") -> Settings:
    """Read and validate a params file.

    Raises:
        SettingsError: no such file, no YAML, an unknown key, or a value of the wrong type or out of bounds.
    """
    return check_settings(read_params(path), str(path))


def read_params(path: Path | str) -> Any:
    """The values of a params file, which nobody has checked; {} where it is empty.

    Raises:
        SettingsError: no such file, or no YAML.
    """
    try:
        text = Path(path).read_bytes()
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    return params_of(text, str(path))


def params_of(text: str | bytes, origin: str) -> Any:
    """The values of a params file's text, which nobody has checked; {} where it is empty.

    Raises:
        SettingsError: it is no YAML; `origin` names it in the error.
    """
    try:
        values = yaml_value(text)
    except YamlError as error:
        raise SettingsError(f"{origin}: not valid YAML: {error}") from None
    return values if values is not None else {}


def check_settings(values: Any, origin: str) -> Settings:
    """Validate nested values; `origin` names them in the error."""
    if not isinstance(values, dict):
        raise SettingsError(f"{origin}: expected sections of parameters, got {type(values).__name__}")
    for section, keys in RENAMED.items():
        if section in values:
            raise SettingsError(f"{origin}: unknown key {section!r}: {_renamed(section, keys)}")
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise SettingsError(f"{origin}: {_sentence(error.errors()[0])}{more}") from None


def _sentence(error: Any) -> str:
    """What is wrong with a value, and which parameter it has."""
    # Without the members of a union, and with a key that a user made up as other values are shown.
    place = [ascii(part)[1:-1][:VALUE] if isinstance(part, str) else str(part) for part in error["loc"]]
    own = {0, len(place) - 1} if error["type"] == "extra_forbidden" else {0}
    place = [part for number, part in enumerate(place) if number in own or "[" not in part]
    variant = BASES.get(place[1]) if place[0] == "base" and len(place) > 1 else None
    if variant:
        del place[1]  # pydantic names the type there
    key = ".".join(place)
    if error["type"] == "union_tag_invalid":
        types = " or ".join(map(repr, BASES))
        return f"{key}.type: Input should be {types}, got {shown(error['ctx']['tag'])}"
    if error["type"] == "missing":
        return f"{key}: {error['msg']}"
    if error["type"] != "extra_forbidden":
        return f"{key}: {error['msg']}, got {shown(error['input'])}"
    if variant and len(place) == 2:
        kind = variant.model_fields["type"].default
        others = [name for name, other in BASES.items() if place[1] in other.model_fields]
        known = [name for name in variant.model_fields if name != "type"]
        close = difflib.get_close_matches(place[1], known, n=1)
        hint = f"; set base.type to {others[0]}" if others else ""
        hint = f"; did you mean {'base.' + close[0]!r}?" if close and not others else hint
        return f"unknown key {key!r} where base.type is {kind}, which has {', '.join(known)}{hint}"
    close = difflib.get_close_matches(key, known_keys(), n=1)
    return f"unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else "")


# Sections that there were once, with their parameters, which are in the section `base` now.
RENAMED = {
    "model": ("scale", "tokenizer", "vocab_size", "context"),
    "pretrain": ("steps", "batch_size", "learning_rate", "muon_learning_rate", "save_every"),
}


def renamed(key: str) -> str | None:
    """What a parameter that has had another name is called now, in words; None if it never had one."""
    section, _, name = key.partition(".")
    if section not in RENAMED:
        return None
    return f"{key} is base.{name} now" if name in RENAMED[section] else _renamed(section, RENAMED[section])


def _renamed(section: str, keys: tuple[str, ...]) -> str:
    return f"its parameters are in the section `base` now: {', '.join(f'base.{key}' for key in keys)}"
