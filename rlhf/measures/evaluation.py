"""What the judgments of one judge, or of two, amount to, as metrics/evaluation.json has it.

Everything here reads rows of the contract JUDGMENT, so that people, programs and models are counted alike. A
prompt that several people judged counts once, by the mean of their points, and so do spellings of one prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rlhf.data.distinct import first_of_spelling
from rlhf.judges.judge import Row
from rlhf.measures.agreement import agreement
from rlhf.measures.by_prompt import points_by_prompt, preference_by_prompt
from rlhf.measures.judge_trust import Trust
from rlhf.measures.length_control import length_controlled_rate, word_count
from rlhf.measures.prediction_powered import prediction_powered_rate
from rlhf.measures.rates import compare_paired, preference_rate, prompt_means
from rlhf.measures.rogan_gladen import corrected_rate

TIE_RULE = "a tie counts one half"
PAIRS = (("ppo", "sft"), ("sft", "pretrained"))
Judged = Mapping[str, Sequence[Row]]  # policy -> its judgments


def rates(judged: Judged, confidence: float, trust: Trust | None = None) -> dict[str, Any]:
    """One judge's rates by policy, and the policies compared on the same prompts.

    Args:
        judged: policy -> its judgments. A policy without any is left out.
        confidence: coverage of the intervals, 0..1.
        trust: what is known of the judge's errors.

    Returns:
        `policies`: the fields of `rlhf.measures.rates.Rate`, `length_controlled`, and where `trust` says that
        the judge decides `corrected`, see `rlhf.measures.rogan_gladen` (None where nothing can be known);
        `comparisons`: see `compare`, for PPO with SFT and SFT with the pretrained policy.
    """
    policies = {}
    for policy, rows in judged.items():
        if not rows:
            continue
        prompts = first_of_spelling([row["prompt"] for row in rows])
        rate = preference_rate([row["preferred"] for row in rows], confidence, prompts)
        points = points_by_prompt(rows)
        longer = [word_count(row["output"]) - word_count(row["reference"]) for row in rows]
        at_equal_length = length_controlled_rate(
            list(points.values()), prompt_means(longer, prompts), confidence
        )
        policies[policy] = asdict(rate) | {"length_controlled": asdict(at_equal_length)}
        if trust and trust.decides:
            errors = (trust.sensitivity, trust.specificity)
            corrected = corrected_rate(list(points.values()), *errors, confidence)
            policies[policy]["corrected"] = corrected and asdict(corrected)
    compared = {
        f"{after}_vs_{before}": compare(judged[after], judged[before], confidence)
        for after, before in PAIRS
        if after in policies and before in policies
    }
    return {"policies": policies, "comparisons": {name: row for name, row in compared.items() if row}}


def compare(first: Sequence[Row], second: Sequence[Row], confidence: float) -> dict[str, Any] | None:
    """Two policies on the prompts that both were judged on (McNemar); None where there is none."""
    preferences = preference_by_prompt(first), preference_by_prompt(second)
    shared = [prompt for prompt in preferences[0] if prompt in preferences[1]]
    if not shared:
        return None
    judged, compared = ([table[prompt] for prompt in shared] for table in preferences)
    return compare_paired(judged, compared, confidence).as_dict()


def judges_agree(first: Judged, second: Judged, confidence: float) -> dict[str, Any] | None:
    """Agreement of two judges over policies and prompts; None where they share no item.

    Where several people judged an item, the side that most of them preferred is their judgment.
    """
    labels: dict[tuple[str, str], dict[str, str]] = {}
    for judge, judged in (("first", first), ("second", second)):
        for policy, rows in judged.items():
            for prompt, preferred in preference_by_prompt(rows).items():
                labels.setdefault((policy, prompt), {})[judge] = preferred
    if not any(len(by_judge) == 2 for by_judge in labels.values()):
        return None
    return agreement(labels, confidence).as_dict()


def helped_by_model(people: Sequence[Row], model: Sequence[Row], confidence: float) -> dict[str, Any] | None:
    """The rate that people would give to every prompt, estimated with the help of a model's judgments; see
    `rlhf.measures.prediction_powered`.

    None where people judged fewer than two of the model's prompts, or all of them.
    """
    human, predicted = points_by_prompt(people), points_by_prompt(model)
    both = [prompt for prompt in human if prompt in predicted]
    model_only = [points for prompt, points in predicted.items() if prompt not in human]
    if len(both) < 2 or not model_only:
        return None
    by_people, by_model = ([points[prompt] for prompt in both] for points in (human, predicted))
    return asdict(prediction_powered_rate(by_people, by_model, model_only, confidence))


def rounded(value: Any) -> Any:
    """Numbers with six decimals, beyond which a float holds noise; None for NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value
