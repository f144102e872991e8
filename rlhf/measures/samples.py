"""Which outputs a report shows: the worst, median and best, by how far they lie above their references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.judges.judge import Judge, Row, ScoringJudge
from rlhf.measures.by_prompt import points_by_prompt

_DISPLAY = ("ppo", "sft", "pretrained")


def margins(judge: Judge, rows: list[Row]) -> dict[str, float]:
    """How far each prompt's output lies above its reference: by score where the judge gives one, by points
    where it does not."""
    if isinstance(judge, ScoringJudge):
        texts = ([row[column] for row in rows] for column in ("prompt", "reference", "output"))
        return dict(zip((row["prompt"] for row in rows), judge.margins(*texts), strict=True))
    return {prompt: points - 0.5 for prompt, points in points_by_prompt(rows).items()}


def pick_samples(
    rows: Sequence[Mapping[str, Any]],
    outputs: Mapping[str, Sequence[str]],
    preferred: Mapping[str, str],
    margins: Mapping[str, float],
    each: int = 2,
) -> list[dict[str, Any]]:
    """The worst, median and best PPO outputs by margin, `each` of them (fewer where there are few).

    Args:
        rows: demonstrations, of which those of conversations keep their `messages`.
        outputs: policy -> one text a row.
        preferred, margins: by prompt; a prompt without is no candidate.
    """
    judged = [i for i, row in enumerate(rows) if row["prompt"] in preferred]
    order = sorted(judged, key=lambda i: (margins[rows[i]["prompt"]], rows[i]["id"]))
    middle = max(0, (len(order) - each) // 2)
    places = [
        ("worst", order[:each]),
        ("typical", order[middle : middle + each]),
        ("best", order[::-1][:each]),
    ]
    return [
        {
            "place": place,
            "prompt": rows[i]["prompt"],
            **({"messages": rows[i]["messages"]} if rows[i].get("messages") else {}),
            "reference": rows[i]["completion"],
            "outputs": {name: outputs[name][i] for name in sorted(outputs, key=_DISPLAY.index)},
            "preferred": preferred[rows[i]["prompt"]],
            "margin": margins[rows[i]["prompt"]],
        }
        for place, chosen in places
        for i in chosen
    ]
