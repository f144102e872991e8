"""Rankings: dense ranks of any numbers, and the pairs that a ranking orders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import isfinite
from numbers import Real
from typing import Any

from rlhf.data.errors import DataError


def dense_ranks(ranking: Sequence[Any]) -> list[int | None]:
    """Ranks 1, 2, 3 ... in the order of any numbers, the smallest best; only equal numbers tie, null stays.

    Raises:
        DataError: something that is no finite number.
    """
    ranked = [rank for rank in ranking if rank is not None]
    for rank in ranked:
        # a whole number is finite however long it is, and one beyond all floats cannot be asked
        known = isinstance(rank, int) or (isinstance(rank, Real) and isfinite(rank))
        if not known or isinstance(rank, bool):
            raise DataError(f"{rank!r} in a ranking is no number")
    place = {rank: number for number, rank in enumerate(sorted(set(ranked)), start=1)}
    return [None if rank is None else place[rank] for rank in ranking]


def pairs(ranking: Sequence[int]) -> list[tuple[int, int]]:
    """(better, worse) indices of a ranking in which 1 is best; ties give no pair."""
    ordered = []
    for a, b in combinations(range(len(ranking)), 2):
        if ranking[a] != ranking[b]:
            ordered.append((a, b) if ranking[a] < ranking[b] else (b, a))
    return ordered
