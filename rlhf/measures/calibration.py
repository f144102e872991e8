"""What a reward model is worth on pairs that labelers ordered: accuracy, calibration, length bias, ceiling.

A pair's margin is the reward of the preferred text minus the reward of the other one. Pairs that labelers
tied are left out. Pairs of one ranking share texts, so intervals are by prompt, not by pair.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf.data.rankings import pairs as ordered
from rlhf.measures.rates import clustered_wilson, difference_interval


@dataclass(frozen=True)
class Estimate:
    """A share or a difference of shares with its interval by prompt; n counts pairs."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Bin:
    """Pairs of similar confidence.

    Attributes:
        confidence: mean probability that the model gives to the text it prefers, 0.5..1.
        accuracy: share in which the labelers prefer it too.
        n: pairs.
    """

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Calibration:
    """How far the probabilities of the Bradley-Terry model, sigmoid(margin), can be believed.

    Attributes:
        ece: expected calibration error, mean |accuracy - confidence| over the bins weighted by n, 0..0.5.
        brier: mean squared error of the probability given to the preferred text; 0.25 is a coin's.
        curve: the bins that hold pairs, by confidence.
        n: pairs.
    """

    ece: float
    brier: float
    curve: list[Bin]
    n: int

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class LengthBias:
    """Whether a reward model likes length more than its labelers do.

    Attributes:
        model: share of pairs in which the model prefers the longer text.
        labelers: share of the same pairs in which the labelers do.
        difference: model minus labelers; an interval above 0 is a bias of the model's own.
        shorter_right: accuracy where the labelers preferred the shorter text (Stiennon et al. 2020 found 62.6
            % for their model and 76.4 % for people); None where there is no such pair.
    """

    model: Estimate
    labelers: Estimate
    difference: Estimate
    shorter_right: Estimate | None

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return asdict(self)


def accuracy_by_group(
    margins: ArrayLike,
    groups: Sequence[str],
    prompts: Sequence[Hashable],
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """Share of pairs that the model orders as the labelers did, over all (key `all`) and by labeler group.

    Args:
        margins: (n) reward of the preferred text minus the other's; a margin of 0 is half right.
        groups: labeler group of each pair.
        prompts: prompt of each pair.
        confidence: coverage of the intervals, 0..1.
    """
    right = _right(margins)
    who, about = np.array(groups, object), list(prompts)
    shares = {"all": _share(right, about, confidence)}
    for group in sorted(set(groups)):
        inside = np.flatnonzero(who == group)
        shares[group] = _share(right[inside], [about[i] for i in inside], confidence)
    return shares


def calibration(margins: ArrayLike, bins: int = 10) -> Calibration:
    """Calibration of sigmoid(margin) on pairs; see `Calibration`.

    Args:
        margins: (n) reward of the preferred text minus the other's.
        bins: of equal width from 0.5 to 1.

    Raises:
        ValueError: no pairs.
    """
    from scipy.special import expit

    margin = np.asarray(margins, float)
    if margin.size == 0:
        raise ValueError("no pairs, so no calibration")
    right, sure = _right(margin), expit(np.abs(margin))
    place = np.minimum(((sure - 0.5) * 2 * bins).astype(int), bins - 1)
    curve = [
        Bin(float(sure[place == k].mean()), float(right[place == k].mean()), int((place == k).sum()))
        for k in np.unique(place)
    ]
    ece = sum(entry.n * abs(entry.accuracy - entry.confidence) for entry in curve) / len(margin)
    return Calibration(float(ece), float(((1 - expit(margin)) ** 2).mean()), curve, len(margin))


def length_bias(
    margins: ArrayLike,
    length_differences: ArrayLike,
    prompts: Sequence[Hashable],
    confidence: float = 0.95,
) -> LengthBias | None:
    """Length bias of a reward model; see `LengthBias`. None where all pairs are of equal length.

    Args:
        margins: (n) reward of the preferred text minus the other's.
        length_differences: (n) length of the preferred text minus the other's.
        prompts: prompt of each pair.
        confidence: coverage of the intervals, 0..1.
    """
    longer = np.asarray(length_differences, float)
    unequal = np.flatnonzero(longer)
    if not unequal.size:
        return None
    right, longer = _right(margins)[unequal], longer[unequal]
    about = [prompts[int(i)] for i in unequal]
    labelers = (longer > 0).astype(float)
    model = np.where(longer > 0, right, 1 - right)
    shorter = np.flatnonzero(longer < 0)
    apart = model - labelers
    return LengthBias(
        model=_share(model, about, confidence),
        labelers=_share(labelers, about, confidence),
        difference=Estimate(float(apart.mean()), *difference_interval(apart, about, confidence), len(apart)),
        shorter_right=_share(right[shorter], [about[i] for i in shorter], confidence)
        if shorter.size
        else None,
    )


def accuracy_ceiling(agreement: float) -> tuple[float, float]:
    """Between which accuracies the best possible model lies, on labels of one labeler each.

    Where a share m of labelers prefers the favourite of a pair, the best model is right with chance m, and
    two labelers agree with chance q = m^2 + (1 - m)^2. Over pairs of differing m, the mean of m lies between
    the mean agreement q (each pair is either clear or a coin toss) and (1 + sqrt(2 q - 1)) / 2 (all pairs are
    alike; Jensen's inequality). A model above the upper bound has seen the answers.

    Args:
        agreement: chance that two labelers order a pair alike, ties left out, 0..1.

    Returns:
        The lower and the upper bound; both 0.5 where labelers agree no more than coins do.
    """
    if agreement <= 0.5:
        return 0.5, 0.5
    return agreement, (1 + (2 * agreement - 1) ** 0.5) / 2


def reward_quality(
    rankings: Sequence[Mapping[str, Any]],
    scores: Sequence[Sequence[float]],
    everything: Sequence[Mapping[str, Any]],
    confidence: float = 0.95,
) -> dict[str, Any]:
    """All that this module measures, on rankings that the model was not trained on.

    Args:
        rankings: held-out rows of the contract COMPARISON.
        scores: the model's rewards, one for each completion of each row.
        everything: all rows, held out or not, for the agreement of labelers who ranked the same texts.
        confidence: coverage of the intervals, 0..1.

    Returns:
        `accuracy` by labeler group, `calibration`, `length_bias` (None where all texts are of one length),
        `agreement` (share of pairs that two labelers order alike, with `pairs`) and `ceiling`, both None
        where no texts were ranked twice; an empty dict where there is not one pair without a tie.
    """
    margins, lengths, groups, prompts = [], [], [], []
    for row, own in zip(rankings, scores, strict=True):
        lengths_of_row = [len(text.split()) for text in row["completions"]]
        for better, worse in sorted(ordered(row["ranking"])):
            margins.append(own[better] - own[worse])
            lengths.append(lengths_of_row[better] - lengths_of_row[worse])
            groups.append(row["labeler_group"] or "unknown")
            prompts.append(row["prompt"])
    if not margins:
        return {}
    bias = length_bias(margins, lengths, prompts, confidence)
    alike = _orders_alike(everything)
    return {
        "accuracy": {
            group: asdict(value)
            for group, value in accuracy_by_group(margins, groups, prompts, confidence).items()
        },
        "calibration": calibration(margins).as_dict(),
        "length_bias": bias and bias.as_dict(),
        "agreement": {"value": fmean(alike), "pairs": len(alike)} if alike else None,
        "ceiling": list(accuracy_ceiling(fmean(alike))) if alike else None,
    }


def _orders_alike(rankings: Sequence[Mapping[str, Any]]) -> list[float]:
    """For every two labelers who ranked the same texts, and every pair of these that neither tied: 1 where
    they ordered it alike, 0 where they did not."""
    ranked: dict[tuple[str, ...], list[set[tuple[int, int]]]] = {}
    for row in rankings:
        ranked.setdefault((row["prompt"], *row["completions"]), []).append(set(ordered(row["ranking"])))
    alike = []
    for same_texts in ranked.values():
        for first, second in combinations(same_texts, 2):
            turned = {(worse, better) for better, worse in second}
            alike += [1.0] * len(first & second) + [0.0] * len(first & turned)
    return alike


def _right(margins: ArrayLike) -> NDArray[np.float64]:
    return (np.sign(np.asarray(margins, float)) + 1) / 2


def _share(values: NDArray[np.float64], prompts: Sequence[Hashable], confidence: float) -> Estimate:
    """A share of pairs, with its interval by prompt."""
    return Estimate(float(values.mean()), *clustered_wilson(values, prompts, confidence), len(values))
