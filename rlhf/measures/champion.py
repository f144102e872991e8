"""A challenger against the champion on the same prompts: where it is better for sure, and where it is worse.

A champion is replaced by a policy that is not worse for sure in any measure and better for sure in one of
those named here. One that is equal stays challenger: to replace it would change what people get for nothing.

| measure | difference, challenger minus champion | test |
|---|---|---|
| rate | preferred to the reference | paired t test, and exact sign test over the prompts |
| rate at equal length | the same where both write equally much | `difference_at_equal_length` |
| slice | preferred to the reference in a slice | exact sign test, Holm over all slices |
| safety | share of outputs without a finding of `rlhf.measures.safety` | exact McNemar test |
| length | words saved, as a share of the champion's | paired t test |

The chance that a challenger equal in everything counts as better is the alpha that this evaluation of the
test prompts may spend (`rlhf.measures.alpha_spending`): half of it goes to the rate and the other half in
equal parts to the rest (weighted Bonferroni). A gain in anything but the rate counts only if the rate is
surely not lower by more than a margin, since a policy that is worse and shorter is no gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.judges.judge import Row
from rlhf.measures.alpha_spending import spent_alpha
from rlhf.measures.by_prompt import points_by_prompt
from rlhf.measures.evaluation import compare
from rlhf.measures.exact_tests import sign_test
from rlhf.measures.length_control import difference_at_equal_length, word_count
from rlhf.measures.safety import has_finding
from rlhf.measures.slice_comparison import compare_slices

RATE, EQUAL_LENGTH, SLICE, SAFETY, LENGTH = "rate", "rate at equal length", "slice", "safety", "length"


@dataclass(frozen=True)
class Measure:
    """One measure of the challenger minus that of the champion; above 0 is better.

    Attributes:
        name: of the measure.
        difference, low, high: with its interval.
        p_better, p_worse: one-sided p values that it is not better, not worse.
    """

    name: str
    difference: float
    low: float
    high: float
    p_better: float
    p_worse: float


def against_champion(
    ours: Sequence[Row],
    theirs: Sequence[Row],
    topics: Mapping[str, str | None],
    writers: Mapping[str, str | None],
    *,
    confidence: float,
    evaluation_number: int,
    margin: float,
    saving: float,
    banned: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Compare a challenger with the champion; None where no prompt was judged for both.

    Args:
        ours, theirs: judgments of the challenger and of the champion by one judge.
        topics, writers: of each prompt, for the slices.
        confidence: coverage of the intervals; 1 minus it is the most that all evaluations may err together.
        evaluation_number: which evaluation of these prompts this one is, from 1.
        margin: how far the rate may lie below the champion's where the gain is elsewhere, in points.
        saving: the share of words saved from which on a shorter output is a gain.
        banned: words that no output may hold.

    Returns:
        `n`, `rate` and `champion_rate`, `difference`, `low`, `high`, `better`, `worse` and `p_value` as in
        `rlhf.measures.evaluation.compare`; `measures`, a list of `Measure`; `slices` as in
        `rlhf.measures.slice_comparison.compare_slices`; `gains`, what is better for sure; `losses`, what is
        worse for sure; `not_inferior`, whether the rate is not lower than the champion's by more than the
        margin.
    """
    paired = compare(ours, theirs, confidence)
    if paired is None:
        return None
    our_points, their_points = points_by_prompt(ours), points_by_prompt(theirs)
    shared = [prompt for prompt in our_points if prompt in their_points]
    change = np.array([our_points[prompt] - their_points[prompt] for prompt in shared])
    outputs = [{row["prompt"]: row["output"] for row in rows} for rows in (ours, theirs)]
    texts = [[table[prompt] for prompt in shared] for table in outputs]
    lengths = np.array([[word_count(text) for text in column] for column in texts], float)
    unsafe = [np.array(has_finding(column, banned), float) for column in texts]
    risen = compare_slices(theirs, ours, topics, writers, confidence)
    fallen = compare_slices(ours, theirs, topics, writers, confidence)

    measures = [
        _rate(change, confidence),
        _at_equal_length(change, lengths[0] - lengths[1], confidence),
        _safety(unsafe[0], unsafe[1], confidence),
        _length(lengths[0], lengths[1], saving, confidence),
    ]
    levels = _levels(spent_alpha(evaluation_number, confidence), [measure.name for measure in measures])
    not_inferior = measures[0].low > -margin
    gains = [measure.name for measure in measures if measure.p_better < levels[measure.name]]
    gains += [
        f"{SLICE} {kind} {row['name']}"
        for kind, rows in risen.items()
        for row in rows
        if row["p_value"] < levels[SLICE]
    ]
    losses = [
        measure.name
        for measure in measures
        if measure.name != LENGTH and measure.p_worse < (1 - confidence) / 2
    ]
    return paired | {
        "rate": fmean(our_points[prompt] for prompt in shared),
        "champion_rate": fmean(their_points[prompt] for prompt in shared),
        "measures": [asdict(measure) for measure in measures],
        "slices": fallen,
        "gains": gains if not_inferior else [name for name in gains if name == RATE],
        "losses": losses,
        "not_inferior": not_inferior,
    }


def _levels(level: float, names: Sequence[str]) -> dict[str, float]:
    rest = [SLICE, *(name for name in names if name != RATE)]
    return {RATE: level / 2} | {name: level / 2 / len(rest) for name in rest}


def _rate(change: NDArray[np.float64], confidence: float) -> Measure:
    mean, low, high, more, less = _mean(change, confidence)
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    if better + worse:  # a t test of few prompts is no test; the sign test is exact
        more = max(more, sign_test(better, worse))
        less = max(less, sign_test(worse, better))
    return Measure(RATE, mean, low, high, more, less)


def _at_equal_length(change: NDArray[np.float64], longer: NDArray[np.float64], confidence: float) -> Measure:
    return Measure(EQUAL_LENGTH, *difference_at_equal_length(change, longer, confidence))


def _safety(ours: NDArray[np.float64], theirs: NDArray[np.float64], confidence: float) -> Measure:
    change = theirs - ours
    mean, low, high, *_ = _mean(change, confidence)
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    return Measure(SAFETY, mean, low, high, sign_test(better, worse), sign_test(worse, better))


def _length(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], saving: float, confidence: float
) -> Measure:
    total = theirs.mean() or 1.0
    mean, low, high, *_ = _mean((theirs - ours) / total, confidence)
    *_, more, less = _mean(((1 - saving) * theirs - ours) / total, confidence)
    return Measure(LENGTH, mean, low, high, more, less)


def _mean(values: NDArray[np.float64], confidence: float) -> tuple[float, float, float, float, float]:
    """Mean, interval, and the one-sided p values that it is not above and not below 0 (Student's t)."""
    from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats is slow to load

    mean, n = float(values.mean()), len(values)
    error = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    if error < 1e-12:
        return mean, mean, mean, float(mean <= 0), float(mean >= 0)
    reach = float(stdtrit(n - 1, (1 + confidence) / 2)) * error
    return (
        mean,
        mean - reach,
        mean + reach,
        float(stdtr(n - 1, -mean / error)),
        float(stdtr(n - 1, mean / error)),
    )
