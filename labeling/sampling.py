"""Which candidates become items: all, some at random, or those on which earlier opinions disagree."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations

from labeling.candidates import Candidate
from rlhf.data.errors import DataError

FLOOR = 0.1  # added to every disagreement, so that each item has a chance
SAMPLINGS = ("all", "random", "disagreement")


def disagreement(scores: Sequence[Sequence[float]]) -> float | None:
    """How much scorers disagree on the order of outputs, 0 to 1; None with fewer than two scorers.

    It is the mean over pairs of 4 p (1 - p), where p is the share of scorers who prefer the first (a tie
    counts half).
    """
    if len(scores) < 2 or len(scores[0]) < 2:
        return None
    by_pair = []
    for i, j in combinations(range(len(scores[0])), 2):
        p = sum((s[i] > s[j]) + 0.5 * (s[i] == s[j]) for s in scores) / len(scores)
        by_pair.append(4 * p * (1 - p))
    return sum(by_pair) / len(by_pair)


def draw(weights: Sequence[float], number: int, rng: random.Random) -> list[tuple[int, float]]:
    """Draw `number` indices without replacement, each with a chance proportional to its weight.

    Systematic sampling in random order (Madow 1949), which gives exactly these chances.

    Returns:
        (index, the chance that it had) of each that is drawn.
    """
    number = min(number, len(weights))
    certain: set[int] = set()  # indices whose chance would be above 1
    while True:
        rest = sum(w for i, w in enumerate(weights) if i not in certain)
        left = number - len(certain)
        over = {i for i, w in enumerate(weights) if i not in certain and left * w >= rest * (1 - 1e-12)}
        if not over or left == 0:
            break
        certain |= over
    chosen = [(i, 1.0) for i in sorted(certain)]
    others = [i for i in range(len(weights)) if i not in certain]
    rng.shuffle(others)
    passed, mark = 0.0, rng.random()
    for i in others if left else []:
        chance = left * weights[i] / rest
        passed += chance
        if passed > mark:
            chosen.append((i, chance))
            mark += 1
    return chosen


def weights(candidates: Sequence[Candidate], sampling: str) -> list[float]:
    """What the chances of candidates are proportional to, for `random` and `disagreement`.

    Raises:
        DataError: no candidate has two opinions, so none can disagree.
    """
    if sampling == "random":
        return [1.0] * len(candidates)
    disagreements = [disagreement(candidate.scores) for candidate in candidates]
    if all(value is None for value in disagreements):
        raise DataError(
            "sampling by disagreement needs pairs or rankings with two opinions or more: several rankings of "
            "the same outputs, or a column 'scores' with a list for each reward model"
        )
    return [FLOOR + (value or 0.0) for value in disagreements]
