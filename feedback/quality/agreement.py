"""How far people agree: raw agreement, Krippendorff's alpha, Cohen's kappa, with bootstrap intervals by item.

Alpha is evalica's, kappa scikit-learn's. Raw agreement stands beside them always: alpha and kappa are low
where nearly every answer is the same one, however rarely people differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from typing import Any, Literal

import evalica
import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from rlhf.contracts import DataError

Distance = Literal["nominal", "ordinal", "interval"]


@dataclass(frozen=True)
class Answer:
    """One answer of one labeler about one unit, e.g. a pair of outputs.

    Attributes:
        unit: what was judged.
        item: what is drawn again in the bootstrap: units of one prompt belong together.
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
    found = []
    for row in rows:
        texts = row["completions"]
        keys = [sha256(text.encode()).hexdigest()[:16] for text in texts]
        for a, b in combinations(range(len(texts)), 2):
            if keys[a] > keys[b]:
                a, b = b, a
            gap = row["ranking"][a] - row["ranking"][b]
            value = "tie" if gap == 0 else "first" if gap < 0 else "second"
            unit = f"{row['prompt']}\0{keys[a]}\0{keys[b]}"
            found.append(Answer(unit, row["prompt"], row["labeler_id"] or "", value))
    return found


def agreement(
    given: Sequence[Answer],
    *,
    distance: Distance = "nominal",
    resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Agreement on the units that at least two people answered.

    Args:
        given: answers; a labeler's later answer about a unit takes the place of an earlier one.
        distance: how alpha weighs a disagreement; kappa and raw agreement count it whole.
        resamples: bootstrap samples of items, with replacement.
        confidence: coverage of the percentile intervals.
        seed: of the bootstrap.

    Returns:
        `raw` (share of pairs of answers about one unit that are equal), `alpha` and `kappa` (over the same
        pairs of answers, each in both orders), each as {value, low, high}, and `units`, `items`, `pairs`. A
        figure that does not exist, such as alpha where all answers are one and the same, is None.

    Raises:
        DataError: no unit has two answers.
    """
    latest = {(answer.unit, answer.labeler): answer for answer in given}
    by_item: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for answer in latest.values():
        by_item[answer.item][answer.unit].append(answer.value)
    items = [units for units in ([v for v in of.values() if len(v) > 1] for of in by_item.values()) if units]
    if not items:
        raise DataError("nothing was judged by two people: agreement needs overlapping labels")

    values = sorted({value for units in items for unit in units for value in unit}, key=str)
    code = {value: i for i, value in enumerate(values)}
    units = [np.array([code[value] for value in unit]) for of in items for unit in of]
    item_of_unit = np.repeat(np.arange(len(items)), [len(of) for of in items])
    # Alpha asks how often each answer was given about a unit, not who gave it: a few rows will do.
    table = np.full((max(map(len, units)), len(units)), np.nan)
    for column, unit in enumerate(units):
        table[: len(unit), column] = unit if distance == "nominal" else [float(values[i]) for i in unit]
    pairs = np.array([pair for unit in units for pair in combinations(unit, 2)])
    unit_of_pair = np.repeat(np.arange(len(units)), [len(u) * (len(u) - 1) // 2 for u in units])

    def figures(times: np.ndarray) -> dict[str, float | None]:
        """The three figures with each unit counted so many times."""
        weight = times[unit_of_pair].astype(float)
        one, two = pairs.T
        raw = float(np.average(one == two, weights=weight))
        varied = len(np.unique(table[:, times > 0][~np.isnan(table[:, times > 0])])) > 1
        if not varied:
            return {"raw": raw, "alpha": None, "kappa": None}
        alpha = evalica.alpha(pd.DataFrame(table.repeat(times, axis=1)), distance=distance).alpha
        kappa = cohen_kappa_score(np.r_[one, two], np.r_[two, one], sample_weight=np.r_[weight, weight])
        return {"raw": raw, "alpha": float(alpha), "kappa": float(kappa)}

    rng, drawn = np.random.default_rng(seed), []
    for _ in range(resamples):
        times = np.bincount(rng.integers(len(items), size=len(items)), minlength=len(items))
        drawn.append(figures(times[item_of_unit]))
    tail = (1 - confidence) / 2
    result: dict[str, Any] = {}
    for name, value in figures(np.ones(len(units), dtype=int)).items():
        known = [found for sample in drawn if (found := sample[name]) is not None]
        low, high = np.quantile(known, [tail, 1 - tail]) if known and value is not None else (None, None)
        result[name] = {
            "value": value,
            "low": None if low is None else float(low),
            "high": None if high is None else float(high),
        }
    return result | {"units": len(units), "items": len(items), "pairs": len(pairs)}


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
    found = {}
    for name in sorted(slices):
        try:
            found[name] = agreement(answers(slices[name]), **options)
        except DataError:
            continue
    return found
