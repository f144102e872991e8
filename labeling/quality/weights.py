"""How much each labeler's rankings count in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from labeling.quality import bradley_terry, dawid_skene
from labeling.quality.votes import votes
from rlhf.data.errors import DataError

MIN_VOTES = 10  # shared pairs; a labeler with fewer gets the average weight


def labeler_weights(
    rows: Sequence[dict[str, Any]], method: Literal["dawid-skene", "bradley-terry"]
) -> dict[str, float]:
    """A weight by labeler id, 0 or more, whose mean over the rows is 1.

    `dawid-skene` weighs by 2 accuracy - 1, the informed share of a labeler's answers; `bradley-terry` by the
    ability beta. Both are near 0 for a labeler who answers by position or at random. Labelers are told apart
    by the outputs that several of them ranked; who shares too few of those gets the mean of the others.

    Raises:
        DataError: too few outputs were ranked by two people, or nobody is better than chance.
    """
    shared = votes(rows).shared()
    count = np.bincount(shared.labeler, minlength=len(shared.labelers))
    known = count >= MIN_VOTES
    if not known.any():
        raise DataError(
            "labeler weights need outputs that two people ranked, and hardly any were: collect overlapping "
            "rankings (collect.shared) or set reward.labeler_weights: none"
        )
    if method == "dawid-skene":
        raw = 2 * dawid_skene.fit(shared).accuracy - 1
    else:
        raw = bradley_terry.fit(shared).ability
    raw = np.maximum(raw, 0)
    raw[~known] = np.average(raw[known], weights=count[known])
    by_id = dict(zip(shared.labelers, raw, strict=True))
    mean = float(np.mean([by_id[row["labeler_id"]] for row in rows]))
    if mean <= 0:
        raise DataError(
            "no labeler is better than chance: look at the labels, or set reward.labeler_weights: none"
        )
    return {labeler: float(weight) / mean for labeler, weight in sorted(by_id.items())}
