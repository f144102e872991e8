"""Types of request fields, which accept only what both databases can hold."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from pydantic import AfterValidator

NAME, LONG = 60, 100_000  # characters
MOST = 2**31 - 1  # PostgreSQL's integer


def _holdable(text: str) -> str:
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("has a character that cannot be stored")
    return text


Text = Annotated[str, AfterValidator(_holdable)]
Id = Annotated[int, Path(ge=1, le=MOST)]
OptionalId = Annotated[int | None, Query(ge=1, le=MOST)]
