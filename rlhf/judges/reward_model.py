"""A reward model as judge of single texts."""

from __future__ import annotations

from pathlib import Path

from rlhf.judges.judge import ScoringJudge


def model_judge(name: str, folder: Path | str) -> ScoringJudge:
    """Judge by a reward model."""
    from rlhf.models.reward_model import load_reward, score  # here, so that the gold judge needs no model

    model = load_reward(folder)
    return ScoringJudge(name, "model", lambda prompts, texts: score(model, prompts, texts))
