"""The true facts of the built-in posts, which judges and simulated labelers read beside a summary."""

from __future__ import annotations

import json
from pathlib import Path

from rlhf.data.contracts import GOLD
from rlhf.data.table import read_table


def read_facts(path: Path | str) -> dict[str, dict[str, str]]:
    """Prompt -> fact type -> value; empty where the source is not the built-in world.

    Raises:
        DataError: no such table.
    """
    return {row["prompt"]: json.loads(row["facts"]) for row in read_table(path, GOLD)}
