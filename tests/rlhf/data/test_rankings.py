"""Rankings of any numbers become dense ranks."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf.data.rankings import dense_ranks


@pytest.mark.parametrize(
    ("ranking", "dense"),
    [
        ([1.33, 1.67, 3], [1, 2, 3]),  # means of several people
        ([1.5, 1.5, 3.0], [1, 1, 2]),  # halves
        ([1, 2, 2, 4], [1, 2, 2, 3]),  # competition ranks
        ([1, 3, 3, 3], [1, 2, 2, 2]),
        ([0, 2, 1], [1, 3, 2]),  # counted from 0
        ([2, 2, 2], [1, 1, 1]),
        ([3.0, 1.0, 2.0], [3, 1, 2]),
        ([1, None, 3.5], [1, None, 2]),
        ([1.0000001, 1.0000002], [1, 2]),
    ],
)
def test_rankings_of_any_numbers_keep_their_order(ranking: list[Any], dense: list[Any]) -> None:
    assert dense_ranks(ranking) == dense


def test_a_rank_may_be_a_number_beyond_all_floats():
    """Only the order counts, and whole numbers of any length have one."""
    assert dense_ranks([10**400, 1, 10**400 + 1]) == [2, 1, 3]
