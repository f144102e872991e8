"""How often the same test prompts were looked at, and what that takes off the certainty of the next look.

Who tries twenty policies on the same prompts and promotes the one that passes has given chance twenty tries:
of twenty policies that are no better than the reference, one passes a 95 % interval in two cases of five. Two
remedies were weighed. A share of fresh prompts for the last word is used up by the first try that reads it;
and while it lasts, it widens every interval, since the prompts are taken from those that judge. Counting the
looks costs the first one nothing and needs no further prompts, so that is what is done here.

The k-th look may err with the probability alpha / (k (k + 1)), one-sided, alpha being 1 minus the confidence.
These sum to alpha over any number of looks (1/2 + 1/6 + 1/12 + ... = 1), so that nobody has to say beforehand
how many there will be: alpha spending, as in Foster and Stine 2008 (alpha-investing without a reward). The
first look has alpha / 2, which is the lower end of the usual two-sided interval.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.data.distinct import spelling

SIZE = 64  # hashes in a sketch
_SHARED = 0.1  # of two sets of prompts: from this overlap on a look at one is a look at the other


def level_of_look(number: int, confidence: float) -> float:
    """The one-sided probability of an error that the look with this number, from 1, may have.

    Raises:
        ValueError: a number below 1.
    """
    if number < 1:
        raise ValueError(f"looks are counted from 1, got {number}")
    return (1 - confidence) / (number * (number + 1))


def sketch(prompts: Sequence[str]) -> list[str]:
    """The 64 smallest hashes of the prompts' spellings, ascending: enough to tell how far two sets overlap.

    A bottom-k sketch (Broder 1997). It also tells a part of a set from another set, so that leaving a prompt
    out does not start the count again.
    """
    hashes = {hashlib.sha256(spelling(prompt).encode()).hexdigest()[:8] for prompt in prompts}
    return sorted(hashes)[:SIZE]


def same_prompts(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two sketches are of sets of which one has a tenth or more of its prompts in the other."""
    ends = [hashes[-1] for hashes in (one, other) if len(hashes) == SIZE]
    end = min(ends, default="g")  # beyond the last hash of a full sketch nothing is known; g is above all hex
    first, second = ({value for value in hashes if value <= end} for hashes in (one, other))
    fewer = min(len(first), len(second))
    return fewer > 0 and len(first & second) >= _SHARED * fewer


def outcome(judgments: Sequence[Mapping[str, Any]]) -> str:
    """Hash of what was seen: each prompt, the output and what was preferred; 16 hex digits.

    The same policy sampled and judged the same way again is the same look.
    """
    rows = sorted((row["prompt"], row["output"], row["preferred"]) for row in judgments)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
