"""Two policies by slice of the prompts: topic, length of the prompt, group of the reference's writer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.judges.judge import Row
from rlhf.measures.by_prompt import preference_by_prompt
from rlhf.measures.slices import length_slices, slice_rates


def compare_slices(
    first: Sequence[Row],
    second: Sequence[Row],
    topics: Mapping[str, str | None],
    writers: Mapping[str, str | None],
    confidence: float,
    least: int = 20,
) -> dict[str, list[dict[str, Any]]]:
    """A policy's rate by slice, and where it fell against another policy.

    Args:
        first, second: judgments of the two policies by one judge.
        topics, writers: of each prompt. A writer's group is the id without its number: `terse-2` is `terse`.
        confidence: see `rlhf.measures.slices.slice_rates`.
        least: slices of fewer prompts are put together as the slice `other`.

    Returns:
        The fields of `rlhf.measures.slices.Slice` by kind of slice; nothing where the two share no prompt.
    """
    judged, compared = preference_by_prompt(first), preference_by_prompt(second)
    prompts = [prompt for prompt in judged if prompt in compared]
    if not prompts:
        return {}
    kinds = {
        "topic": [topics.get(prompt) or "none" for prompt in prompts],
        "prompt length": length_slices(prompts),
        "writer group": [re.sub(r"-?\d+$", "", writers.get(prompt) or "") or "none" for prompt in prompts],
    }
    slices = {}
    for kind, names in kinds.items():
        count = Counter(names)
        merged = [name if count[name] >= least else "other" for name in names]
        if len(set(merged)) > 1:
            slices[kind] = merged
    tables = slice_rates([judged[p] for p in prompts], [compared[p] for p in prompts], slices, confidence)
    return {kind: [row.as_dict() for row in rows] for kind, rows in tables.items()}
