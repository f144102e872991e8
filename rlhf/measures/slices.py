"""Rates by slice: does a policy serve every topic, length and group, or win in some and lose in others?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rlhf.measures.exact_tests import holm, sign_test
from rlhf.measures.rates import to_points, wilson


@dataclass(frozen=True)
class Slice:
    """One slice of the prompts.

    Attributes:
        name: of the slice.
        rate, low, high: preferred to the reference, with its interval.
        n: prompts.
        difference: mean points minus those of the policy compared with, on the same prompts.
        better, worse: prompts with more points than the other policy's, with fewer.
        p_value: exact one-sided sign test that it is worse here, Holm-adjusted over all slices compared.
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
    preferred: Sequence[str],
    compared: Sequence[str],
    slices: Mapping[str, Sequence[str]],
    confidence: float = 0.95,
) -> dict[str, list[Slice]]:
    """Rates of a policy by slice, and where it fell against another policy.

    Of twenty slices about one falls by chance alone at 95 %. Holm's (1979) adjustment over all slices of all
    kinds keeps the chance that any slice is flagged without cause at 1 - confidence, however many there are.

    Args:
        preferred: `output`, `reference` or `tie` for each prompt.
        compared: the same for the policy compared with, e.g. the champion or the SFT policy.
        slices: kind of slice, e.g. `topic` -> name of the slice of each prompt.
        confidence: coverage of each interval, and 1 minus the chance of any false flag.

    Returns:
        One entry a slice by kind, sorted by name.

    Raises:
        ValueError: unequal lengths, or a value that is no judgment.
    """
    for kind, names in {"the other policy": compared, **slices}.items():
        if len(names) != len(preferred):
            raise ValueError(
                f"slices need one entry a prompt, got {len(names)} of {kind} for {len(preferred)} prompts"
            )
    points, others = np.array(to_points(preferred)), np.array(to_points(compared))
    places = [
        (kind, name, np.array([entry == name for entry in names]))
        for kind, names in slices.items()
        for name in sorted(set(names))
    ]
    if not places:
        return {}
    counts, p_values = [], []
    for _, _, inside in places:
        difference = points[inside] - others[inside]
        better, worse = int((difference > 0).sum()), int((difference < 0).sum())
        counts.append((float(difference.mean()), better, worse))
        p_values.append(sign_test(worse, better))
    tables: dict[str, list[Slice]] = {}
    for (kind, name, inside), (change, better, worse), p_value in zip(
        places, counts, holm(p_values), strict=True
    ):
        low, high = wilson(points[inside], confidence)
        tables.setdefault(kind, []).append(
            Slice(
                name,
                float(points[inside].mean()),
                low,
                high,
                n=int(inside.sum()),
                difference=change,
                better=better,
                worse=worse,
                p_value=p_value,
                fell=bool(p_value < 1 - confidence),
            )
        )
    return tables


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
