"""Rates by slice: does a policy serve every topic, length and group, or win on one and lose on another?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rlhf.statistics import to_points, wilson


@dataclass(frozen=True)
class Slice:
    """One slice of the prompts.

    Attributes:
        name: of the slice.
        rate, low, high: preferred to the reference, with its interval.
        n: prompts.
        difference: mean points minus those of the policy compared with, on the same prompts.
        better, worse: prompts with more points than the other policy's, with fewer.
        p_value: exact one-sided sign test that it is worse here, Holm-adjusted over the slices given
            together.
        fell: whether that is below 1 - confidence.
    """

    name: str
    rate: float
    low: float
    high: float
    n: int
    difference: float
    better: int
    worse: int
    p_value: float
    fell: bool

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return asdict(self)


def slice_rates(
    preferred: Sequence[str], compared: Sequence[str], slices: Sequence[str], confidence: float = 0.95
) -> list[Slice]:
    """Rates of a policy by slice, and where it fell against another policy.

    With twenty slices one falls by chance alone at 95 %; Holm's (1979) adjustment keeps the chance that any
    is flagged without cause at 1 - confidence, whatever the number of slices.

    Args:
        preferred: `output`, `reference` or `tie` for each prompt.
        compared: the same for the policy compared with, e.g. the champion or the SFT policy.
        slices: name of the slice of each prompt.
        confidence: coverage of each interval, and 1 minus the chance of any false flag.

    Returns:
        One entry a slice, by name.

    Raises:
        ValueError: unequal lengths, or a word that is no judgment.
    """
    from scipy.stats import binomtest
    from statsmodels.stats.multitest import multipletests

    if not len(preferred) == len(compared) == len(slices):
        raise ValueError(
            f"slices need one entry a prompt, got {len(preferred)}, {len(compared)} and {len(slices)}"
        )
    points, others = np.array(to_points(preferred)), np.array(to_points(compared))
    names = sorted(set(slices))
    found = []
    for name in names:
        inside = np.array([entry == name for entry in slices])
        difference = points[inside] - others[inside]
        better, worse = int((difference > 0).sum()), int((difference < 0).sum())
        p_value = binomtest(worse, better + worse, alternative="greater").pvalue if better + worse else 1.0
        found.append((points[inside], float(difference.mean()), better, worse, float(p_value)))
    if not found:
        return []
    adjusted = multipletests([entry[-1] for entry in found], method="holm")[1]
    return [
        Slice(
            name,
            float(mine.mean()),
            *wilson(mine, confidence),
            n=len(mine),
            difference=difference,
            better=better,
            worse=worse,
            p_value=float(p_value),
            fell=bool(p_value < 1 - confidence),
        )
        for name, (mine, difference, better, worse, _), p_value in zip(names, found, adjusted, strict=True)
    ]


def length_slices(texts: Sequence[str], bins: int = 3) -> list[str]:
    """The slice of each text by its length in words: `bins` ranges with about equally many texts.

    Returns:
        Names such as `001-124 words`, so that they sort by length.
    """
    words = np.array([len(text.split()) for text in texts])
    edges = np.unique(np.quantile(words, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
    place = np.searchsorted(edges, words)
    width = len(str(words.max()))
    name = {
        int(here): f"{words[place == here].min():0{width}d}-{words[place == here].max():0{width}d} words"
        for here in np.unique(place)
    }
    return [name[int(here)] for here in place]
