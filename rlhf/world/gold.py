"""The gold preference of the built-in task: which of two summaries is better, exactly.

Frozen before anything was tuned (see dev/LOG.md). Only judges and the noise models of the simulated
labelers read it; nothing that trains may.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.world.lexicon import FACT_TYPES
from rlhf.world.parser import parse

WEIGHTS = {"who": 1.0, "deed": 1.0, "when": 0.7, "where": 0.7, "amount": 0.7, "feeling": 0.7, "ask": 1.0}
WRONG = 1.5  # a wrong fact costs this many times what the right one brings
REPEAT = 0.5
CONFIDENT = 0.3
STRAY = 0.15  # a word that says nothing
UNFINISHED = 0.5
FREE_WORDS = 30  # a summary may be this long at no cost
LONG_WORD = 0.1


@dataclass(frozen=True)
class Quality:
    """The measured sides of one summary: the axes of Stiennon et al. 2020, appendix C.

    Attributes:
        coverage: weighted share of the true facts stated, 0..1.
        accuracy: share of the claims that are true, 0..1 (1 for no claim).
        coherence: 1 minus the share of words that are stray, confident or repeated, 0..1.
        words: length in words.
        wrong: number of wrong claims.
        score: the gold score; higher is better.
    """

    coverage: float
    accuracy: float
    coherence: float
    words: int
    wrong: int
    score: float


def quality(facts: dict[str, str], summary: str) -> Quality:
    """Measure a summary of a post with these true facts."""
    claims = parse(summary)
    score = gained = 0.0
    right = wrong = 0
    for kind in FACT_TYPES:
        for value in claims.values.get(kind, ()):
            if value == facts[kind]:
                right += 1
                gained += WEIGHTS[kind]
            else:
                wrong += 1
                score -= WRONG * WEIGHTS[kind]
    score += gained
    score -= REPEAT * claims.repeats + CONFIDENT * claims.confident + STRAY * claims.stray
    score -= UNFINISHED * (not claims.finished) + LONG_WORD * max(0, claims.words - FREE_WORDS)
    idle = claims.stray + claims.confident + claims.repeats
    return Quality(
        coverage=gained / sum(WEIGHTS.values()),
        accuracy=right / (right + wrong) if right + wrong else 1.0,
        coherence=max(0.0, 1 - idle / max(1, claims.words)),
        words=claims.words,
        wrong=wrong,
        score=round(score, 6),
    )


def gold_score(facts: dict[str, str], summary: str) -> float:
    """The gold score alone; of two summaries the one with the higher score is preferred, equal is a tie."""
    return quality(facts, summary).score
