"""What whoever decides about a promotion should know although it refuses nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf.measures.alpha_spending import RepeatedEvaluation
from rlhf.measures.deciding_judge import judges_in_order
from rlhf.measures.display import number
from rlhf.measures.gate_rules import FEW_ITEMS, Evaluation, fallen_text, fell_too_far, level_left, slice_rows
from rlhf.settings import Register

_MANY_COPIES, _MANY_TIES, _ONE_SIDED = 0.1, 0.5, 0.05


def gate_warnings(
    settings: Register,
    evaluation: Evaluation,
    repeated: RepeatedEvaluation,
    champion: Mapping[str, Any] | None,
) -> list[str]:
    """The warnings, a line each: the evaluation's own first, and then the gate's.

    Args:
        settings, evaluation, repeated, champion: see `rlhf.measures.gate.decide`.
    """
    ppo = evaluation["policies"]["ppo"]
    longer, lines = ppo["length_controlled"]["longer"], list(evaluation.get("warnings", []))
    if repeated.number > 1:
        lines.append(
            f"These test prompts were evaluated {repeated.number} times; the gate reads intervals of "
            f"{level_left(repeated)}, and fresh test prompts would start the count again."
        )
    if evaluation.get("near_copies", 0) > _MANY_COPIES:
        lines.append(
            f"{number(evaluation['near_copies'])} of the test prompts are near-copies of another one, so "
            "the rate is less sure than its interval says."
        )
    if ppo["decided"] < (1 - _MANY_TIES) * ppo["n"]:
        lines.append(f"{ppo['n'] - ppo['decided']} of {ppo['n']} prompts are ties.")
    if not _ONE_SIDED <= longer <= 1 - _ONE_SIDED:
        lines.append(
            f"{number(longer)} of the outputs are longer than their reference, so the rate at equal length "
            "is an extrapolation."
        )
    first, others = judges_in_order(evaluation)
    for key in others:
        agreement = (evaluation["judges"][key].get("agreement") or {}).get(first)
        if agreement and agreement["n"] < FEW_ITEMS:
            lines.append(
                f"The judges {first} and {key} share {agreement['n']} judgments, too few to say if they "
                "agree."
            )
    comparison = (champion or {}).get("comparison")
    tables = {"SFT": evaluation["slices"], "the champion": comparison["slices"] if comparison else {}}
    for other, slices in tables.items():
        lines += [
            f"The slice {fallen_text(row, other)}; register.max_slice_loss allows it."
            for row in slice_rows(slices)
            if row["fell"] and not fell_too_far(row, settings.max_slice_loss)
        ]
    return lines
