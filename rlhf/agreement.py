"""Do judges agree? Raw agreement, Krippendorff's alpha and Cohen's kappa, with intervals by item.

Raw agreement alone flatters: two judges who always say `output` agree fully and know nothing. Alpha and kappa
take off what chance would give; kappa is for two judges, alpha for any number, items not judged by all
included. Intervals resample items, since the judgments of one item belong together. (evalica's own bootstrap
of alpha resamples pairs of judgments.)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]


@dataclass(frozen=True)
class Agreement:
    """Agreement over items that at least two judges judged.

    Attributes:
        raw, raw_interval: mean over items of the share of pairs of judges who say the same, 0..1.
        alpha, alpha_interval: Krippendorff's alpha for nominal labels, at most 1, 0 is chance; None where
            all labels are the same, since nothing can be said about chance then.
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


def agreement(
    labels: Mapping[Any, Mapping[Any, Hashable]],
    confidence: float = 0.95,
    seed: int = 0,
    draws: int = 1000,
) -> Agreement:
    """Agreement of judges on items.

    Args:
        labels: item -> judge -> label. Items with fewer than two labels count nowhere.
        confidence: coverage of the intervals, 0..1.
        seed: of the bootstrap.
        draws: bootstrap samples of items.

    Raises:
        ValueError: no item with two labels.
    """
    shared = {item: given for item, given in labels.items() if len(given) > 1}
    if not shared:
        raise ValueError("no item has labels of two judges, so no agreement")
    judges = sorted({judge for given in shared.values() for judge in given}, key=str)
    kinds = sorted({label for given in shared.values() for label in given.values()}, key=str)
    code = {label: float(number) for number, label in enumerate(kinds)}
    coded = [[code[label] for label in given.values()] for given in shared.values()]

    rng = np.random.default_rng(seed)
    samples = rng.integers(0, len(coded), size=(draws, len(coded)))
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]

    def bootstrapped(figure: Callable[[NDArray[np.int64]], float]) -> Interval:
        values = [figure(sample) for sample in samples]
        # a sample may hold one label only: its alpha and kappa are undefined
        low, high = np.nanquantile(values, ends)
        return float(low), float(high)

    same = np.array([np.mean([a == b for a, b in combinations(given, 2)]) for given in coded])
    alpha, alpha_interval, kappa, kappa_interval = None, None, None, None
    if len(kinds) > 1:
        alpha_of = _alpha(coded)
        alpha = alpha_of(np.arange(len(coded)))
        alpha_interval = bootstrapped(alpha_of)
        if len(judges) == 2:
            kappa_of = _kappa(
                np.array([[code[given[judge]] for judge in judges] for given in shared.values()])
            )
            kappa = kappa_of(np.arange(len(coded)))
            kappa_interval = bootstrapped(kappa_of)
    return Agreement(
        raw=float(same.mean()),
        raw_interval=bootstrapped(lambda sample: float(same[sample].mean())),
        alpha=alpha,
        alpha_interval=alpha_interval,
        kappa=kappa,
        kappa_interval=kappa_interval,
        n=len(coded),
        judges=len(judges),
    )


def _alpha(coded: list[list[float]]) -> Callable[[NDArray[np.int64]], float]:
    """Alpha of the items with these numbers. Who gave a label plays no part in alpha, so labels move up."""
    import evalica
    import pandas as pd

    table = np.full((max(map(len, coded)), len(coded)), np.nan)
    for column, given in enumerate(coded):
        table[: len(given), column] = given

    def figure(items: NDArray[np.int64]) -> float:
        drawn = table[:, items]
        if np.nanmin(drawn) == np.nanmax(drawn):
            return np.nan
        return float(evalica.alpha(pd.DataFrame(drawn)).alpha)

    return figure


def _kappa(pairs: NDArray[np.float64]) -> Callable[[NDArray[np.int64]], float]:
    """Kappa of the items with these numbers; `pairs` is (n, 2)."""
    from sklearn.metrics import cohen_kappa_score

    def figure(items: NDArray[np.int64]) -> float:
        drawn = pairs[items]
        if drawn.min() == drawn.max():
            return np.nan
        return float(cohen_kappa_score(drawn[:, 0], drawn[:, 1]))

    return figure
