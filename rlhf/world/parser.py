"""An exact parser from any text to claims: what a summary says, said how often, and what else it holds.

Because every fact is a fixed phrase, coverage, accuracy, coherence and length are counted, not estimated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rlhf.world.lexicon import CONFIDENT, CONNECTORS, PHRASES

_WORD = re.compile(r"[a-z']+|[.,?!]")
_PHRASE_OF: dict[tuple[str, ...], tuple[str, str]] = {
    tuple(phrase.split()): (kind, phrase) for kind, phrases in PHRASES.items() for phrase in phrases
}
_LONGEST = max(map(len, _PHRASE_OF))


@dataclass(frozen=True)
class Claims:
    """What one text claims.

    Attributes:
        values: fact type -> distinct claimed values in order of appearance.
        repeats: claims that restate a value already claimed.
        confident: confident words ("clearly", "definitely", ...).
        stray: other words that belong to no claim and join none.
        words: number of words, punctuation not counted.
        finished: whether the text ends with `.`, `?` or `!`.
    """

    values: dict[str, tuple[str, ...]]
    repeats: int
    confident: int
    stray: int
    words: int
    finished: bool


def parse(text: str) -> Claims:
    """Read a text into claims; longest phrase first, left to right. Never fails, whatever the text."""
    tokens = _WORD.findall(text.lower())
    values: dict[str, list[str]] = {}
    repeats = confident = stray = words = i = 0
    while i < len(tokens):
        for length in range(min(_LONGEST, len(tokens) - i), 0, -1):
            match = _PHRASE_OF.get(tuple(tokens[i : i + length]))
            if match:
                kind, phrase = match
                seen = values.setdefault(kind, [])
                if phrase in seen:
                    repeats += 1
                else:
                    seen.append(phrase)
                words += length
                i += length
                break
        else:
            token = tokens[i]
            if token.isalpha() or "'" in token:
                words += 1
                if token in CONFIDENT:
                    confident += 1
                elif token not in CONNECTORS:
                    stray += 1
            i += 1
    finished = bool(tokens) and tokens[-1] in (".", "?", "!")
    return Claims({k: tuple(v) for k, v in values.items()}, repeats, confident, stray, words, finished)
