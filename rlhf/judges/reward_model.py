"""A reward model as judge of single texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlhf.data.conversations import PromptRows
from rlhf.judges.judge import ScoringJudge


def model_judge(name: str, folder: Path | str, prompts: Iterable[Mapping[str, Any]]) -> ScoringJudge:
    """Judge by a reward model.

    Args:
        prompts: rows with the conversations that prompts are the text of; other prompts are plain text.
    """
    from rlhf.models.reward_model import load_reward, score  # here, so that the gold judge needs no model

    model, rows = load_reward(folder), PromptRows(prompts)
    known: dict[tuple[str, str], float] = {}  # a reference is asked about in every pair that it stands in

    def scores(texts: list[str], answers: list[str]) -> list[float]:
        asked = [pair for pair in dict.fromkeys(zip(texts, answers, strict=True)) if pair not in known]
        if asked:
            prompts_of, answers_of = map(list, zip(*asked, strict=True))
            known.update(zip(asked, score(model, rows.of(prompts_of), answers_of), strict=True))
        return [known[pair] for pair in zip(texts, answers, strict=True)]

    return ScoringJudge(name, "model", scores)
