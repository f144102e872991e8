"""Alpha spending over repeated evaluations of the same test prompts: how much of the error each one may use.

Whoever tries twenty policies on the same prompts and promotes the one that passes has given chance twenty
tries: of twenty policies that are no better than the reference, one passes a 95 % interval in two cases of
five. Two remedies were weighed. A share of fresh prompts for the last word is used up by the first try that
reads it; and while it lasts, it widens every interval, since its prompts are taken from those that judge.
Counting the evaluations costs the first one nothing and needs no further prompts, so that is what is done
here.

The k-th evaluation may err with the probability alpha / (k (k + 1)), one-sided, alpha being 1 minus the
confidence. These sum to alpha over any number of evaluations (1/2 + 1/6 + 1/12 + ... = 1), so nobody has to
say beforehand how many there will be: alpha spending, as in Foster and Stine 2008 (alpha-investing without a
reward). The first evaluation has alpha / 2, which is the lower end of the usual two-sided interval.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.data.distinct import spelling

SKETCH_SIZE = 64  # hashes in a sketch
_SHARED = 0.1  # overlap from which on an evaluation on one set of prompts counts as one on the other


@dataclass(frozen=True)
class RepeatedEvaluation:
    """An evaluation of test prompts that earlier ones used too, and the policy's rates at the level left.

    Attributes:
        number: of this evaluation of these prompts, from 1.
        confidence: of a two-sided interval whose lower end errs with the level of this evaluation.
        low, low_at_equal_length: lower ends of the rate and of the rate at equal length at that confidence.
    """

    number: int
    confidence: float
    low: float
    low_at_equal_length: float


def spent_alpha(number: int, confidence: float) -> float:
    """The one-sided probability of an error that the evaluation with this number, from 1, may have.

    Raises:
        ValueError: a number below 1.
    """
    if number < 1:
        raise ValueError(f"evaluations are counted from 1, got {number}")
    return (1 - confidence) / (number * (number + 1))


def prompt_sketch(prompts: Sequence[str]) -> list[str]:
    """The 64 smallest hashes of the prompts' spellings, ascending: enough to tell how far two sets overlap.

    A bottom-k sketch (Broder 1997). It also tells a part of a set from another set, so that leaving a prompt
    out does not start the count again.
    """
    hashes = {hashlib.sha256(spelling(prompt).encode()).hexdigest()[:8] for prompt in prompts}
    return sorted(hashes)[:SKETCH_SIZE]


def share_prompts(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether two sketches are of sets of which one has a tenth or more of its prompts in the other."""
    ends = [hashes[-1] for hashes in (first, second) if len(hashes) == SKETCH_SIZE]
    end = min(ends, default="g")  # beyond the last hash of a full sketch nothing is known; g is above all hex
    known = [{value for value in hashes if value <= end} for hashes in (first, second)]
    fewer = min(map(len, known))
    return fewer > 0 and len(known[0] & known[1]) >= _SHARED * fewer


def outcome(judgments: Sequence[Mapping[str, Any]]) -> str:
    """Hash of what was judged: each prompt, the output and what was preferred; 16 hex digits.

    The same policy, sampled and judged the same way again, is the same evaluation.
    """
    rows = sorted((row["prompt"], row["output"], row["preferred"]) for row in judgments)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
