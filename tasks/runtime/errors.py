"""Expected errors: one line in place of a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from rlhf.data.errors import DataError
from rlhf.settings import SettingsError
from tasks.runtime.declared import UndeclaredParameter
from tasks.runtime.faults import machine_fault


class StageError(RuntimeError):
    """A stage cannot do its work; the message is a line that says what is wrong and how to mend it."""


def printable(text: str) -> str:
    """A text as a terminal may show it: control characters, which could drive it, are escaped. Messages quote
    data and models, which are text by anybody."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


@contextmanager
def one_line_errors(show_traceback: bool = False) -> Iterator[None]:
    """End the process with one line on stderr for an expected error, in place of a traceback.

    Expected are bad input and settings, and what the machine lacks; see `machine_fault`.
    """
    try:
        yield
    except (DataError, SettingsError, StageError, UndeclaredParameter) as error:
        _end(str(error), show_traceback)
    except BrokenPipeError:  # whoever read the output has enough, such as `head` or a pager
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it at its end
        raise SystemExit(1) from None
    except Exception as error:
        line = machine_fault(error)
        if line is None:
            raise
        _end(line, show_traceback)


def _end(line: str, show_traceback: bool) -> NoReturn:
    if show_traceback:
        traceback.print_exc()
    print(f"error: {printable(line)}", file=sys.stderr)
    raise SystemExit(1) from None
