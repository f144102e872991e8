"""Rankings: dense ranks of any numbers, the pairs that a ranking orders, and those on which two agree."""

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
            raise DataError(f"{rank!r} in a ranking is no number; write one for each completion")
    place = {rank: number for number, rank in enumerate(sorted(set(ranked)), start=1)}
    return [None if rank is None else place[rank] for rank in ranking]


def pairs(ranking: Sequence[int | None]) -> list[tuple[int, int]]:
    """(better, worse) indices of a ranking in which 1 is best; ties and what has no rank give no pair."""
    ordered = []
    ranked = [(place, rank) for place, rank in enumerate(ranking) if rank is not None]
    for (a, rank), (b, other) in combinations(ranked, 2):
        if rank != other:
            ordered.append((a, b) if rank < other else (b, a))
    return ordered


def agreement_on_pairs(first: Sequence[int | None], second: Sequence[int | None]) -> list[float]:
    """For each pair of outputs that two rankings both ordered, whether they agree: 1 or 0, and one half where
    only one of them has a tie.

        >>> agreement_on_pairs([1, 2, 2], [1, 3, 2])
        [1.0, 1.0, 0.5]

    Args:
        first, second: ranks of the same outputs, the smallest is best; None was not ranked.
    """
    shared = [(a, b) for a, b in zip(first, second, strict=False) if a is not None and b is not None]
    agreements = []
    for (a, b), (other_a, other_b) in combinations(shared, 2):
        gap, other_gap = a - other_a, b - other_b
        if (gap == 0) != (other_gap == 0):
            agreements.append(0.5)
        else:
            agreements.append(float(gap * other_gap > 0 or gap == other_gap == 0))
    return agreements
