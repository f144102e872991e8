"""Which prompts are near-duplicates of each other: `prepare` computes it for the splits, and rules read it.

Of a prompt stands there the hash of its text and the number of its group. There is no file where no prompt is
a near-duplicate of another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.rules.view import Numbers, text_hashes

NEAR = "near_duplicates.parquet"  # in the folder of the tables


class Groups:
    """The groups of prompts, a batch at a time."""

    def __init__(self) -> None:
        self._hashes, self._groups = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]

    def add(self, prompts: Any, groups: Numbers) -> None:
        """Add prompts with the numbers of their groups, -1 for those that are alone."""
        some = np.flatnonzero(groups >= 0)
        self._hashes.append(text_hashes(prompts.take(pa.array(some))))
        self._groups.append(groups[some])

    def write(self, folder: Path) -> None:
        """Write the file, where there are some."""
        hashes, groups = np.concatenate(self._hashes), np.concatenate(self._groups)
        if len(hashes):
            pq.write_table(pa.table({"prompt": hashes, "group": groups.astype(np.int64)}), folder / NEAR)


def groups_of(folder: Path, prompts: Numbers) -> Numbers:
    """The number of the group of each prompt, -1 for those that are alone.

    Args:
        folder: of the tables.
        prompts: hashes of their texts (`View.prompts`).
    """
    groups = np.full(len(prompts), -1)
    if not (folder / NEAR).exists():
        return groups
    known = pq.read_table(folder / NEAR)
    hashes, numbers = (known.column(name).to_numpy() for name in ("prompt", "group"))
    order = np.argsort(hashes)
    hashes, numbers = hashes[order], numbers[order]
    at = np.minimum(np.searchsorted(hashes, prompts), len(hashes) - 1)
    return np.where(hashes[at] == prompts, numbers[at], -1)
