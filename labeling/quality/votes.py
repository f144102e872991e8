"""Rankings as pairwise votes in arrays, to which the models of labelers are fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from rlhf.data.errors import DataError


@dataclass(frozen=True)
class Votes:
    """N votes of labelers on pairs of outputs.

    Attributes:
        first, second: indices into `outputs`, [N] each; first < second, whatever order was shown.
        labeler: indices into `labelers`, [N].
        preferred: 1 the first output, 0 the second, 0.5 a tie, [N].
        side: +1 where the first output was shown before the second, -1 where after, 0 unknown, [N].
        outputs: (prompt, completion) of each index.
        labelers: id of each index.
    """

    first: np.ndarray
    second: np.ndarray
    labeler: np.ndarray
    preferred: np.ndarray
    side: np.ndarray
    outputs: list[tuple[str, str]]
    labelers: list[str]

    def __len__(self) -> int:
        return len(self.first)

    @property
    def pair(self) -> np.ndarray:
        """Index of each vote's pair of outputs, [N]; votes on the same pair share it."""
        return np.unique(self.first * len(self.outputs) + self.second, return_inverse=True)[1]

    def shared(self) -> Votes:
        """The votes on pairs that at least two labelers judged; outputs and labelers keep their indices."""
        pair = self.pair
        people = np.zeros(len(self), dtype=int)
        if len(self):
            judged = np.unique(np.stack([pair, self.labeler]), axis=1)[0]
            people = np.bincount(judged)[pair]
        keep = people > 1
        parts = (self.first, self.second, self.labeler, self.preferred, self.side)
        first, second, labeler, preferred, side = (part[keep] for part in parts)
        return Votes(first, second, labeler, preferred, side, self.outputs, self.labelers)


def votes(rows: Sequence[dict[str, Any]]) -> Votes:
    """All pairs of outputs that all rankings rank.

    Raises:
        DataError: a row without `labeler_id`.
    """
    outputs: dict[tuple[str, str], int] = {}
    labelers: dict[str, int] = {}
    rows_of_votes: list[tuple[int, int, int, float, int]] = []
    for number, row in enumerate(rows, start=1):
        if not row["labeler_id"]:
            raise DataError(f"comparisons: row {number}: labeler_id is empty; labelers are told apart by it")
        labeler = labelers.setdefault(row["labeler_id"], len(labelers))
        ids = [outputs.setdefault((row["prompt"], text), len(outputs)) for text in row["completions"]]
        order = row.get("shown_order")
        place = {index: position for position, index in enumerate(order)} if order else None
        for a, b in combinations(range(len(ids)), 2):
            if ids[a] == ids[b] or None in (row["ranking"][a], row["ranking"][b]):
                continue
            if ids[a] > ids[b]:
                a, b = b, a
            better = row["ranking"][b] - row["ranking"][a]
            side = 0 if place is None else (1 if place[a] < place[b] else -1)
            rows_of_votes.append((ids[a], ids[b], labeler, 0.5 + 0.5 * np.sign(better), side))
    columns = list(zip(*rows_of_votes, strict=True)) or [()] * 5
    first, second, who, preferred, side_ = columns
    return Votes(
        np.array(first, dtype=np.int64),
        np.array(second, dtype=np.int64),
        np.array(who, dtype=np.int64),
        np.array(preferred, dtype=float),
        np.array(side_, dtype=np.int64),
        list(outputs),
        list(labelers),
    )
