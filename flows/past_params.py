"""The parameters of a finished run, whatever they were called when it ran.

A params file that a run is to start with has to use today's names; a run that is compared, served or exported
cannot be changed any more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf.settings import RENAMED, Settings, check_settings, read_params


def load_past(path: Path) -> Settings:
    """The settings of a finished run's params file.

    Raises:
        SettingsError: no such file, or parameters that never were any.
    """
    return past_settings(read_params(path), str(path))


def past_settings(values: Any, origin: str) -> Settings:
    """The settings of a finished run, from the content of its params file.

    Args:
        values: sections of parameters; those of the base model may be in sections of their own, and a rank of
            adapters may be that of the reward model and of PPO.
        origin: names them in the error.

    Raises:
        SettingsError: parameters that never were any.
    """
    if not isinstance(values, dict) or "base" in values:
        return check_settings(values, origin)
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    base: dict[str, Any] = {}
    for section in RENAMED:
        if isinstance(values.get(section), dict):  # whatever else stands there is refused below
            base |= values.pop(section)
    sections = [values[name] for name in ("reward", "ppo") if isinstance(values.get(name), dict)]
    ranks = [section.pop("lora_rank") for section in sections if type(section.get("lora_rank")) is int]
    if any(ranks):
        base["lora"] = {"rank": max(ranks)}
    return check_settings(values | ({"base": base} if base else {}), origin)
