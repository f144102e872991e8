"""Automated rewards for PPO, beside a reward model: functions of (prompts, completions).

    config = PPOConfig(..., reward_weights=[1.0, 0.5, 0.02])
    PPOTrainer(policy, [reward_model, repetition(), length(20)], config, prompts, tokenizer)

Each function here returns another of the same name, which returns one score for each completion. Any function
of that shape is a reward.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.measures import safety

RewardFunction = Callable[[Sequence[Any], Sequence[str]], list[float]]


def length(target: int) -> RewardFunction:
    """0 for `target` words, and 1 less for each word more or fewer."""

    def length(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        return [-float(abs(len(text.split()) - target)) for text in completions]

    return length


def repetition(n: int = 3) -> RewardFunction:
    """Minus the share of a completion's word n-grams that occurred in it before (`safety.repetition`)."""

    def repetition(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        return [-safety.repetition(text, n) for text in completions]

    return repetition


def format(pattern: str) -> RewardFunction:
    """1 if the whole completion, without the blanks around it, matches a regular expression, else 0.

    Raises:
        DataError: the pattern is no regular expression.
    """
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise DataError(f"the format {pattern!r} is no regular expression: {error}") from None

    def format(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        return [float(compiled.fullmatch(text.strip()) is not None) for text in completions]

    return format


def banned_words(words: Sequence[str]) -> RewardFunction:
    """Minus the number of banned words and phrases in a completion (`safety.banned_words`).

    Raises:
        DataError: there are no words.
    """
    if not any(word.strip() for word in words):
        raise DataError("banned_words needs words")

    def banned_words(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        return [-float(sum(safety.banned_words(text, words).values())) for text in completions]

    return banned_words
