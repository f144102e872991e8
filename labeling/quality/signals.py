"""Signals of careless labeling, by labeler: position, length, constant answers, speed, gold items.

A signal is a reason to look, not a verdict: Stiennon et al. (2020, appendix C) gained nothing from dropping
weak labelers. What to do about a flagged labeler is up to people, or to weights in training.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import binomtest

FAST = 1 / 3  # as a share of the median labeler's seconds
CONSTANT = 0.6  # share of one and the same answer
LEAN = 0.15  # distance of a rate from one half that matters
ALPHA = 0.01  # chance that a rate flags anybody in a pool without spammers (Bonferroni)


@dataclass(frozen=True)
class Signals:
    """What one labeler's rankings look like.

    Attributes:
        rankings: how many.
        left_rate: share of strict pairs won by the output shown first; None where no order was kept.
        longer_rate: share of strict pairs of unequal length (in words) won by the longer output.
        tie_rate: share of pairs tied.
        constant_rate: share of the most frequent answer, read in the order shown, among rankings of the most
            frequent K.
        median_seconds: seconds that half of the rankings took at most.
        gold_accuracy: share of strict pairs of gold items ordered as gold has them, ties counting half;
            None without gold items.
        gold_pairs: how many such pairs there are.
        flags: what stands out, each in a few words.
    """

    rankings: int
    left_rate: float | None
    longer_rate: float | None
    tie_rate: float
    constant_rate: float | None
    median_seconds: float | None
    gold_accuracy: float | None
    gold_pairs: int
    flags: tuple[str, ...]


def signals(
    rows: Sequence[dict[str, Any]],
    gold: Mapping[tuple[str, tuple[str, ...]], Sequence[int]] | None = None,
    min_rankings: int = 20,
) -> dict[str, Signals]:
    """Signals by labeler id.

    Args:
        rows: comparisons.
        gold: for gold items, (prompt, completions) -> the ranking that experts settled on.
        min_rankings: a labeler with fewer is not flagged.
    """
    by_labeler: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_labeler[row["labeler_id"] or ""].append(row)
    paces = [pace for own in by_labeler.values() if (pace := _median_seconds(own)) is not None]
    usual = float(np.median(paces)) if paces else None
    return {
        labeler: _signals(own, gold or {}, usual, min_rankings, people=len(by_labeler))
        for labeler, own in sorted(by_labeler.items())
    }


def _signals(
    rows: list[dict[str, Any]],
    gold: Mapping[tuple[str, tuple[str, ...]], Sequence[int]],
    usual_seconds: float | None,
    min_rankings: int,
    people: int,
) -> Signals:
    left, longer, right = [], [], []
    ties = pairs = 0
    for row in rows:
        ranking, texts = row["ranking"], row["completions"]
        place = {index: at for at, index in enumerate(row["shown_order"])} if row.get("shown_order") else {}
        lengths = [len(text.split()) for text in texts]
        truth = gold.get((row["prompt"], tuple(texts)))
        for a, b in combinations([k for k, rank in enumerate(ranking) if rank is not None], 2):
            pairs += 1
            if truth is not None and truth[a] != truth[b]:
                same = (ranking[a] - ranking[b]) * (truth[a] - truth[b])
                right.append(0.5 if same == 0 else float(same > 0))
            if ranking[a] == ranking[b]:
                ties += 1
                continue
            better, worse = (a, b) if ranking[a] < ranking[b] else (b, a)
            if place:
                left.append(place[better] < place[worse])
            if lengths[a] != lengths[b]:
                longer.append(lengths[better] > lengths[worse])
    shown = [tuple(row["ranking"][i] for i in row["shown_order"]) for row in rows if row.get("shown_order")]
    # More outputs have more possible answers. Only rankings of the most frequent K count, so that shares can
    # be compared.
    sizes = Counter(map(len, shown))
    usual_size = sizes.most_common(1)[0][0] if sizes else 0
    same_size = [answer for answer in shown if len(answer) == usual_size]
    constant = Counter(same_size).most_common(1)[0][1] / len(same_size) if same_size else None
    seconds = _median_seconds(rows)

    flags = []
    if len(rows) >= min_rankings:
        if _leans(left, people):
            flags.append(f"prefers the output shown first in {np.mean(left):.0%} of the pairs")
        if constant is not None and usual_size > 2 and constant > CONSTANT:
            flags.append(f"gives one and the same answer in {constant:.0%} of the rankings")
        if seconds is not None and usual_seconds and seconds < FAST * usual_seconds:
            flags.append(f"needs {seconds:.0f} s a ranking where others need {usual_seconds:.0f}")
        if (
            right
            and binomtest(round(sum(right)), len(right), 0.5, "greater").pvalue > 0.05
            and len(right) >= 20
        ):
            flags.append(f"orders {np.mean(right):.0%} of the gold pairs rightly, no better than chance")
    return Signals(
        rankings=len(rows),
        left_rate=float(np.mean(left)) if left else None,
        longer_rate=float(np.mean(longer)) if longer else None,
        tie_rate=ties / max(1, pairs),
        constant_rate=constant,
        median_seconds=seconds,
        gold_accuracy=float(np.mean(right)) if right else None,
        gold_pairs=len(right),
        flags=tuple(flags),
    )


def _leans(wins: list[bool], people: int) -> bool:
    """Whether a rate lies far from one half, and not by chance."""
    if not wins or abs(np.mean(wins) - 0.5) < LEAN:
        return False
    return bool(binomtest(sum(wins), len(wins)).pvalue < ALPHA / people)


def _median_seconds(rows: list[dict[str, Any]]) -> float | None:
    seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
    return float(np.median(seconds)) if seconds else None
