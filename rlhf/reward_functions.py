"""Automated signals for PPO, to be mixed with a reward model: functions of (prompts, completions).

    config = PPOConfig(..., reward_weights=[1.0, 0.5, 0.02])
    PPOTrainer(policy, [reward_model, repetition(), length(20)], config, prompts, tokenizer)

Each function here returns another, named after it, that gives one score a completion. Any function of that
shape is a reward.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from rlhf.contracts import DataError

RewardFunction = Callable[[Sequence[Any], Sequence[str]], list[float]]


def length(target: int) -> RewardFunction:
    """0 at `target` words, and 1 less for every word more or fewer."""

    def length(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        return [-float(abs(len(text.split()) - target)) for text in completions]

    return length


def repetition(n: int = 3) -> RewardFunction:
    """Minus the share of a completion's word n-grams that occurred in it before."""

    def repetition(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        scores = []
        for text in completions:
            words = text.lower().split()
            grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
            scores.append(len(set(grams)) / len(grams) - 1 if grams else 0.0)
        return scores

    return repetition


def format(pattern: str) -> RewardFunction:
    """1 where the whole completion, blanks around it aside, matches a regular expression, else 0.

    Raises:
        DataError: no regular expression.
    """
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise DataError(f"the format {pattern!r} is no regular expression: {error}") from None

    def format(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        return [float(compiled.fullmatch(text.strip()) is not None) for text in completions]

    return format


def banned_words(words: Sequence[str]) -> RewardFunction:
    """Minus the number of banned words in a completion, whole words in any case.

    Raises:
        DataError: no words.
    """
    if not words:
        raise DataError("banned_words needs words")
    compiled = re.compile(r"\b(?:" + "|".join(map(re.escape, words)) + r")\b", re.IGNORECASE)

    def banned_words(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        return [-float(len(compiled.findall(text))) for text in completions]

    return banned_words
