"""The error for input that cannot be used."""

from __future__ import annotations

from rlhf.data.shown import one_line

# What Python raises of a value that is not as the code that reads it expects; StopIteration is a RuntimeError
# by the time that it leaves a generator.
UNFIT = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class DataError(ValueError):
    """Input that cannot be used: one line that names file, row, what is wrong and how to mend it."""

    def __init__(self, line: str) -> None:
        super().__init__(one_line(line))


class Diverged(DataError):
    """A training whose numbers run away; the line names step, cause and the checkpoint to go back to."""
