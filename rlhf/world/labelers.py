"""Simulated labelers: experts, novices and spammers who rank K summaries of one post.

They stand in for people so that the default pipeline runs unattended. Each has an id, a group and a pace;
whatever they produce is called *simulated* wherever it is shown.

- experts follow the gold score with noise;
- novices like length and confident words and miss half of the wrong facts;
- spammers rank by position, fast.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.world.gold import WEIGHTS, WRONG, quality
from rlhf.world.parser import parse

GROUPS = ("expert", "novice", "spammer")
TIE_GAP = 0.25  # utilities closer than this are called a tie
_NOISE = {"expert": 0.4, "novice": 0.8}
_SECONDS = {"expert": 55.0, "novice": 38.0, "spammer": 4.0}  # median a K-way ranking
_WEIGHT = sum(WEIGHTS.values()) / len(WEIGHTS)


@dataclass(frozen=True)
class Label:
    """One ranking: rank 1 is best, ties share a rank, ranks are dense. `strength` is 1 (unsure) to 9."""

    ranking: tuple[int, ...]
    strength: int
    seconds: float


def pool(groups: Mapping[Any, float], size: int = 20) -> list[tuple[str, str]]:
    """The labelers as (id, group), `size` of them, shared out by the groups' weights.

    Args:
        groups: name of a labeler group -> its weight.

    Raises:
        ValueError: a group that does not exist.
    """
    unknown = set(groups) - set(GROUPS)
    if unknown:
        raise ValueError(f"unknown labeler group {sorted(unknown)[0]!r}; groups are {', '.join(GROUPS)}")
    total = sum(groups.values())
    people: list[tuple[str, str]] = []
    for group, share in groups.items():
        people += [(f"{group}-{i + 1:02d}", group) for i in range(round(size * share / total))]
    return people


def utility(facts: dict[str, str], summary: str, group: str, rng: random.Random) -> float:
    """How much one labeler of a group likes a summary, noise included."""
    measured = quality(facts, summary)
    if group == "expert":
        return measured.score + rng.gauss(0, _NOISE["expert"])
    claims = parse(summary)
    missed = sum(rng.random() < 0.5 for _ in range(measured.wrong))
    noticed = measured.score + missed * (WRONG + 1) * _WEIGHT  # a missed mistake counts as a right fact
    return noticed + 0.05 * claims.words + 0.8 * claims.confident + rng.gauss(0, _NOISE["novice"])


def rank(
    facts: dict[str, str], summaries: list[str], shown_order: list[int], group: str, rng: random.Random
) -> Label:
    """Rank summaries as one labeler of a group would.

    Args:
        facts: the true facts of the post.
        summaries: K texts.
        shown_order: `shown_order[j]` is the index of the text shown at position j.
        group: the labeler's group.
        rng: the only source of randomness.
    """
    if group == "spammer":
        likes = [0.0] * len(summaries)
        for position, index in enumerate(shown_order):
            likes[index] = -position + rng.gauss(0, 1)
    else:
        likes = [utility(facts, summary, group, rng) for summary in summaries]
    order = sorted(range(len(likes)), key=lambda i: -likes[i])
    ranking = [0] * len(likes)
    current = 1
    for before, index in zip([None, *order], order, strict=False):
        if before is not None and likes[before] - likes[index] >= TIE_GAP:
            current += 1
        ranking[index] = current
    spread = likes[order[0]] - likes[order[-1]]
    seconds = round(rng.lognormvariate(0, 0.35) * _SECONDS[group], 1)
    return Label(tuple(ranking), max(1, min(9, 1 + round(2 * spread))), seconds)
