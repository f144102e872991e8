"""The gate to @champion: every rule must hold, and the decision names each rule with its reason.

What was not measured has not held: no slices, no comparison with SFT, no measured judge are reasons to stay
challenger. What is worth knowing and refuses nobody is a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rlhf.measures.alpha_spending import RepeatedEvaluation
from rlhf.measures.gate_rules import (
    Evaluation,
    champion_rule,
    hacking_rule,
    interval_rule,
    judge_rule,
    length_rule,
    other_judges_rule,
    prompts_rule,
    safety_rule,
    sft_rule,
    slices_rule,
)
from rlhf.measures.gate_warnings import gate_warnings
from rlhf.settings import Register


def decide(
    settings: Register,
    evaluation: Evaluation,
    repeated: RepeatedEvaluation,
    champion: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Every rule and every warning.

    Args:
        settings: section `register` of the parameters; it leaves some rules out.
        evaluation: content of metrics/evaluation.json.
        repeated: which evaluation of these test prompts it is, and the policy's rates at the level left.
        champion: `version` of the champion, and either `comparison`, see
            `rlhf.measures.champion.against_champion`, or `said`, why there is none, with `held`. None leaves
            the rule out.

    Returns:
        `promoted`, `rules` (a list of `Rule` as dictionaries) and `warnings` (a list of lines).
    """
    rules = [
        interval_rule(settings, evaluation, repeated),
        prompts_rule(settings, evaluation),
        judge_rule(evaluation),
        other_judges_rule(settings, evaluation),
        sft_rule(settings, evaluation),
        length_rule(settings, evaluation, repeated),
    ]
    if settings.max_slice_loss < 1 or settings.min_slice_rate > 0:
        rules.append(slices_rule(settings, evaluation))
    if settings.refuse_hacking:
        rules.append(hacking_rule(evaluation))
    if settings.max_unsafe_share < 1:
        rules.append(safety_rule(settings, evaluation))
    if champion is not None:
        rules.append(champion_rule(settings, champion))
    return {
        "promoted": all(rule.held for rule in rules),
        "rules": [asdict(rule) for rule in rules],
        "warnings": gate_warnings(settings, evaluation, repeated, champion),
    }
