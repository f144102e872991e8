"""The error for input that cannot be used."""

from __future__ import annotations


class DataError(ValueError):
    """Input that cannot be used: one line that names file, row, what is wrong and how to mend it."""


class Diverged(DataError):
    """A training whose numbers run away; the line names step, cause and the checkpoint to go back to."""
