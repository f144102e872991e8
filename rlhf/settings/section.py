"""What sections of params.yaml are made of: fields with unit and bounds; the error for a bad value."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class SettingsError(ValueError):
    """A params file that cannot be used, in one line: the file, the key, and what is wrong."""


def param(default: Any, description: str, unit: str | None = None, **bounds: Any) -> Any:
    """A pydantic field with its description, unit and bounds."""
    return Field(
        default, description=description, json_schema_extra={"unit": unit} if unit else None, **bounds
    )


class Section(BaseModel):
    """A section of params.yaml; unknown keys are refused, and values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
