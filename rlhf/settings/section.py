"""What sections of params.yaml are made of: fields with unit and bounds; the error for a bad value."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_SECRET = re.compile("(?<=://)[^/]*@|(?<=[?]).*")
VALUE, LINE = 60, 1500  # most characters of a value in a message, and of a message


def shown(value: Any) -> str:
    """A value as a message shows it: in ASCII, cut where it is long, without what may be a URL's secret."""
    try:
        text = _SECRET.sub("***", ascii(value))
    except (ValueError, RecursionError):  # Python spells no number of thousands of digits, and no deep list
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= VALUE else text[: VALUE - 3] + "..."


class SettingsError(ValueError):
    """A params file that cannot be used, in one line: the file, the key, and what is wrong."""

    def __init__(self, line: str) -> None:
        line = line.replace("\r", "\\r").replace("\n", "\\n")
        # A message begins with the place and ends with how to mend it, so the middle may be missing.
        super().__init__(line if len(line) <= LINE else f"{line[: LINE // 2]} ... {line[-LINE // 2 :]}")


def param(default: Any, description: str, unit: str | None = None, **bounds: Any) -> Any:
    """A pydantic field with its description, unit and bounds."""
    return Field(
        default, description=description, json_schema_extra={"unit": unit} if unit else None, **bounds
    )


class Section(BaseModel):
    """A section of params.yaml; unknown keys are refused, and values never change after loading.

    A value has the very type of its parameter: true is no number, 1 is no yes, and a text is neither. NaN and
    infinity are no numbers of a parameter, because no bound holds them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
