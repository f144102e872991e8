"""One value a prompt: spellings of a prompt, and what several people said of it, are taken together."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf.data.distinct import first_of_spelling
from rlhf.judges.judge import Row, to_preference
from rlhf.measures.rates import POINTS, prompt_means


def points_by_prompt(rows: Sequence[Row]) -> dict[str, float]:
    """Mean points of each prompt, in the order of the rows; the first of several spellings stands for all.

    Args:
        rows: of the contract JUDGMENT, as far as `prompt` and `preferred`.
    """
    if not rows:
        return {}
    prompts = first_of_spelling([row["prompt"] for row in rows])
    means = prompt_means([POINTS[row["preferred"]] for row in rows], prompts)
    return dict(zip(dict.fromkeys(prompts), means.tolist(), strict=True))


def preference_by_prompt(rows: Sequence[Row]) -> dict[str, str]:
    """One judgment a prompt, `output`, `reference` or `tie`: the side that has more points."""
    return {prompt: to_preference(points - 0.5) for prompt, points in points_by_prompt(rows).items()}
