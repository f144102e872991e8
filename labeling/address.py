"""Where the label store is: the database that is named, or a file in the state folder.

For one version the names from before are read as well: the variable `FEEDBACK_DB`, and the file `feedback.db`
of a state folder in which a store lies under that name.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

VARIABLE, FILE = "LABELING_DB", "labels.db"
OLD_VARIABLE, OLD_FILE = "FEEDBACK_DB", "feedback.db"


def store_address(state: Path | None = None) -> str:
    """SQLAlchemy URL of the label store: `LABELING_DB`, else SQLite in `labels.db` of the state folder.

    Args:
        state: the state folder; by default `RLHF_STATE`, else `.state` in the working directory.
    """
    if named := os.environ.get(VARIABLE):
        return named
    if named := os.environ.get(OLD_VARIABLE):
        _say_that_the_variable_is_old()
        return named
    folder = (state or Path(os.environ.get("RLHF_STATE") or ".state")).resolve()
    # Nothing renames a store by itself, so an old file stays the store until somebody moves it.
    is_old = (folder / OLD_FILE).exists() and not (folder / FILE).exists()
    return f"sqlite:///{folder / (OLD_FILE if is_old else FILE)}"


@functools.cache  # once a process
def _say_that_the_variable_is_old() -> None:
    print(
        f"{OLD_VARIABLE} is called {VARIABLE} now; the next version reads the new name only", file=sys.stderr
    )
