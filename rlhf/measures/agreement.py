"""Do judges agree? Raw agreement, Krippendorff's alpha and Cohen's kappa, with intervals by item.

Raw agreement alone flatters: two judges who always say `output` agree fully and know nothing. Alpha and kappa
take off what chance would give; kappa is for two judges, alpha for any number of them, and also for items
that not all of them judged. Both are 1 - disagreement / disagreement by chance. Their intervals are the
interval of the disagreement by item, with the chance disagreement taken as it was observed. With simulated
judges and 10 items or more these cover the planted value in 0.94 to 0.99 of samples where no label is rare,
and in 0.89 to 1.00 over all distributions of labels. A percentile bootstrap of few items, or of judges who
nearly always agree, often has no width: it covers 0.13 to 0.90 there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.measures.rates import clustered_wilson, wilson

Interval = tuple[float, float]


@dataclass(frozen=True)
class Agreement:
    """Agreement over items that at least two judges judged.

    Attributes:
        raw, raw_interval: mean over items of the share of pairs of judges who say the same, 0..1.
        alpha, alpha_interval: Krippendorff's alpha for nominal labels, at most 1, and 0 by chance; None where
            all labels are the same, since then nothing can be said about chance.
        kappa, kappa_interval: Cohen's kappa, where there are exactly two judges and both judged each item;
            None otherwise.
        n: items.
        judges: how many different judges.
    """

    raw: float
    raw_interval: Interval
    alpha: float | None
    alpha_interval: Interval | None
    kappa: float | None
    kappa_interval: Interval | None
    n: int
    judges: int

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return asdict(self)


def agreement(labels: Mapping[Any, Mapping[Any, Hashable]], confidence: float = 0.95) -> Agreement:
    """Agreement of judges on items.

    Args:
        labels: item -> judge -> label. Items with fewer than two labels do not count.
        confidence: coverage of the intervals, 0..1.

    Raises:
        ValueError: no item with two labels.
    """
    shared = [by_judge for by_judge in labels.values() if len(by_judge) > 1]
    if not shared:
        raise ValueError("no item has labels of two judges, so no agreement")
    judges = sorted({judge for by_judge in shared for judge in by_judge}, key=str)
    units = [list(by_judge.values()) for by_judge in shared]
    same = equal_shares(units)
    raw, raw_interval = float(same.mean()), wilson(same, confidence)
    alpha, alpha_interval = krippendorff_alpha(units, range(len(units)), confidence)
    kappa, kappa_interval = None, None
    if len(judges) == 2:
        first, second = ([by_judge[judge] for by_judge in shared] for judge in judges)
        kappa, kappa_interval = cohen_kappa(first, second, raw, raw_interval)
    return Agreement(
        raw=raw,
        raw_interval=raw_interval,
        alpha=alpha,
        alpha_interval=alpha_interval,
        kappa=kappa,
        kappa_interval=kappa_interval,
        n=len(shared),
        judges=len(judges),
    )


def equal_shares(units: Sequence[Sequence[Hashable]]) -> NDArray[np.float64]:
    """For each unit, the share of pairs of its labels that are equal, 0..1: (units) values.

    Args:
        units: at least two labels each.
    """
    return np.array([np.mean([a == b for a, b in combinations(labels, 2)]) for labels in units])


def krippendorff_alpha(
    units: Sequence[Sequence[Hashable]], clusters: Sequence[Hashable], confidence: float = 0.95
) -> tuple[float | None, Interval | None]:
    """Krippendorff's alpha for nominal labels (Krippendorff 2011), and its interval; None where all labels
    are the same, since nothing can be said about chance then.

    Args:
        units: the labels of each unit, two or more, from any judges.
        clusters: (units) what was sampled: units of one cluster belong together, pairs of one prompt, say.
        confidence: coverage of the interval, 0..1.
    """
    same = equal_shares(units)
    # Alpha counts a label, and not a unit, once.
    each = np.repeat(np.arange(len(units)), [len(labels) for labels in units])
    ends = clustered_wilson(same[each], [clusters[unit] for unit in each.tolist()], confidence)
    often = Counter(label for labels in units for label in labels)
    count = often.total()
    apart = 1 - sum(n * (n - 1) for n in often.values()) / (count * (count - 1))
    return _beyond_chance(float(same[each].mean()), ends, apart)


def cohen_kappa(
    first: Sequence[Hashable], second: Sequence[Hashable], same: float, ends: Interval
) -> tuple[float | None, Interval | None]:
    """Cohen's kappa of two sides (Cohen 1960), and its interval; None where both always give one and the same
    label.

    Args:
        first, second: the labels of the two sides, in the same order.
        same: share of equal labels.
        ends: its interval.
    """
    often, often_too = Counter(first), Counter(second)
    by_chance = sum(often[label] * often_too[label] for label in often) / len(first) ** 2
    return _beyond_chance(same, ends, 1 - by_chance)


def _beyond_chance(same: float, ends: Interval, apart: float) -> tuple[float | None, Interval | None]:
    """The agreement beyond chance and its interval; None where by chance nobody would disagree.

    Args:
        same: share of pairs of judges who say the same.
        ends: its interval.
        apart: share of pairs of judges who by chance would not say the same.
    """
    if apart <= 0:
        return None, None
    figure, low, high = (1 - (1 - share) / apart for share in (same, *ends))
    return figure, (low, high)
