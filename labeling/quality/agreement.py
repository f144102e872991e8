"""How far labelers agree: raw agreement, Krippendorff's alpha, Cohen's kappa, with intervals by item.

Raw agreement is always shown beside the others, because alpha and kappa are low where nearly all answers are
the same, however rarely people differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from statistics import fmean
from typing import Any

from rlhf.data.errors import DataError
from rlhf.measures.agreement import cohen_kappa, krippendorff_alpha
from rlhf.measures.rates import clustered_wilson


@dataclass(frozen=True)
class Answer:
    """One answer of one labeler about one unit, e.g. a pair of outputs.

    Attributes:
        unit: what was judged.
        item: what was sampled: units of one prompt belong together.
        labeler: who answered.
        value: the answer, a category or a number.
    """

    unit: str
    item: str
    labeler: str
    value: Any


def answers(rows: Sequence[dict[str, Any]]) -> list[Answer]:
    """The pairs of comparisons as answers `first`, `second` or `tie`.

    Which output counts as the first follows from the hash of its text: an order with a meaning (the reference
    first, say) would make one answer frequent and alpha and kappa low.
    """
    pairs = []
    for row in rows:
        texts = row["completions"]
        keys = [sha256(text.encode()).hexdigest()[:16] for text in texts]
        for a, b in combinations(range(len(texts)), 2):
            if None in (row["ranking"][a], row["ranking"][b]):
                continue
            if keys[a] > keys[b]:
                a, b = b, a
            if None in (row["ranking"][a], row["ranking"][b]):
                continue  # one of them was not ranked
            gap = row["ranking"][a] - row["ranking"][b]
            value = "tie" if gap == 0 else "first" if gap < 0 else "second"
            unit = f"{row['prompt']}\0{keys[a]}\0{keys[b]}"
            pairs.append(Answer(unit, row["prompt"], row["labeler_id"] or "", value))
    return pairs


def agreement(answers_given: Sequence[Answer], *, confidence: float = 0.95) -> dict[str, Any]:
    """Agreement on the units that at least two people answered.

    Alpha and kappa are 1 - disagreement / disagreement by chance; their intervals are that of the
    disagreement by item, with chance as it was seen. Even answers that are all alike leave an interval.

    Args:
        answers_given: a labeler's later answer about a unit takes the place of an earlier one.
        confidence: coverage of the intervals.

    Returns:
        `raw` (share of pairs of answers about one unit that are equal), `alpha` (nominal) and `kappa` (over
        the same pairs of answers, each in both orders), each as {value, low, high}, and `units`, `items`,
        `pairs`. A figure that does not exist, such as alpha where all answers are the same, is None.

    Raises:
        DataError: no unit has two answers.
    """
    latest = {(answer.unit, answer.labeler): answer for answer in answers_given}
    by_unit: dict[str, list[Answer]] = defaultdict(list)
    for answer in latest.values():
        by_unit[answer.unit].append(answer)
    units = [unit for unit in by_unit.values() if len(unit) > 1]
    if not units:
        raise DataError("nothing was judged by two people: agreement needs overlapping labels")

    pairs = [(unit[0].item, a.value, b.value) for unit in units for a, b in combinations(unit, 2)]
    items, first, second = ([pair[side] for pair in pairs] for side in range(3))
    same = [float(a == b) for a, b in zip(first, second, strict=True)]
    raw, ends = fmean(same), clustered_wilson(same, items, confidence)
    values = [[answer.value for answer in unit] for unit in units]
    alpha = krippendorff_alpha(values, [unit[0].item for unit in units], confidence)
    # Every pair counts in both orders, so that both sides have one and the same distribution of answers.
    kappa = cohen_kappa(first + second, second + first, raw, ends)
    return {
        "raw": _figure(raw, ends),
        "alpha": _figure(*alpha),
        "kappa": _figure(*kappa),
        "units": len(units),
        "items": len(set(items)),
        "pairs": len(pairs),
    }


def _figure(value: float | None, interval: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {"value": value, "low": low, "high": high}


def agreement_by(
    rows: Sequence[dict[str, Any]], key: Callable[[dict[str, Any]], str], **options: Any
) -> dict[str, dict[str, Any]]:
    """`agreement` within each slice of comparisons, e.g. by group, by guideline version or by week.

    Args:
        rows: comparisons, with whatever more `key` reads (a time, say).
        key: the slice of a row; both answers of a counted pair come from the same slice.

    Returns:
        by slice in sorted order; slices without overlap are left out.
    """
    slices: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        slices[key(row)].append(row)
    by_slice = {}
    for name in sorted(slices):
        try:
            by_slice[name] = agreement(answers(slices[name]), **options)
        except DataError:  # nothing in it was judged by two people
            continue
    return by_slice
