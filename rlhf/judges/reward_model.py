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
    return ScoringJudge(name, "model", lambda texts, answers: score(model, rows.of(texts), answers))
