"""One-coin Dawid-Skene with position bias: how often each labeler is right, without knowing what is right.

Every pair has a hidden better output z. A labeler sees it on the left or on the right and answers "left" with
probability a if z is there and 1 - b if it is not (Dawid and Skene 1979). With one coin, a = b; here
(a + b) / 2 is the labeler's accuracy and (a - b) / 2 the pull to the left, so that somebody who always takes
the left has accuracy 0.5, whatever the pairs at hand. Ties count as half a vote for either side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labeling.quality.votes import Votes


@dataclass(frozen=True)
class DawidSkene:
    """What the votes say about labelers and pairs.

    Attributes:
        accuracy: probability that a labeler picks the better output, position aside, [labelers].
        left_bias: added to that probability when the better output is on the left, taken off otherwise,
            [labelers].
        first_better: probability that the first output of a pair is the better of the two, [pairs], in the
            order of `Votes.pair`.
    """

    accuracy: np.ndarray
    left_bias: np.ndarray
    first_better: np.ndarray


def fit(
    votes: Votes,
    *,
    position_bias: bool = True,
    prior: tuple[float, float] = (3.0, 2.0),
    tolerance: float = 1e-6,
    max_steps: int = 500,
) -> DawidSkene:
    """Fit by expectation-maximisation from the majority of the votes.

    Args:
        votes: votes on pairs; a pair with a single vote says nothing about its labeler.
        position_bias: whether labelers may lean to one side; False is the plain one-coin model.
        prior: Beta prior of a and b as (right, wrong) answers. Its mean is above 0.5, which picks one of the
            two mirror images of the solution; labelers without votes get its mean.
        tolerance: stop when no pair's probability moves by more than this.
        max_steps: stop after this many steps.
    """
    people, pair = len(votes.labelers), votes.pair
    pairs = int(pair.max()) + 1 if len(votes) else 0
    chose = votes.preferred
    on_left = np.where(votes.side == 0, 0.5, (votes.side + 1) / 2)  # is the first output on the left

    better = np.bincount(pair, chose, pairs) / np.maximum(1, np.bincount(pair, minlength=pairs))
    right, wrong = prior
    a: np.ndarray = np.full(people, right / (right + wrong))
    b = a
    for _ in range(max_steps):
        # M step: `hit` counts how far each labeler's votes name the better output, apart for each side on
        # which that output was shown.
        z = better[pair]
        hit: dict[bool, np.ndarray] = {}
        seen: dict[bool, np.ndarray] = {}
        for is_left in (True, False):
            side = on_left if is_left else 1 - on_left
            first = z * side  # the first output is the better one, and on this side
            second = (1 - z) * (1 - side)
            hit[is_left] = np.bincount(votes.labeler, first * chose + second * (1 - chose), people)
            seen[is_left] = np.bincount(votes.labeler, first + second, people)
        if position_bias:
            a = (hit[True] + right) / (seen[True] + right + wrong)
            b = (hit[False] + right) / (seen[False] + right + wrong)
        else:
            a = b = (hit[True] + hit[False] + right) / (seen[True] + seen[False] + right + wrong)
        # E step: log-odds of "the first is better", summed over a pair's votes; a tie is half of each answer.
        p, q = a[votes.labeler], b[votes.labeler]
        first_left = chose * np.log(p / (1 - q)) + (1 - chose) * np.log((1 - p) / q)
        first_right = chose * np.log(q / (1 - p)) + (1 - chose) * np.log((1 - q) / p)
        odds = np.bincount(pair, on_left * first_left + (1 - on_left) * first_right, pairs)
        updated = 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
        moved = np.abs(updated - better).max(initial=0.0)
        better = updated
        if moved < tolerance:
            break
    return DawidSkene((a + b) / 2, (a - b) / 2, better)
