"""Held-out texts that another text is nearly the same as: most words in common, found without all pairs.

Of each held-out text a few runs of words are looked for; a near-duplicate has at least one of them, unless
its changes hit all. What a sieve over the bytes lets through (`rlhf/data/sieve.py`) is compared by MinHash.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rlhf.data.near_duplicates import clusters, sketches, words_of
from rlhf.data.sieve import WORDS

_TRIED, _KEPT = 8, 4  # runs of each text, of which the rarest are looked for, since many texts share some


class NearTexts:
    """Held-out texts, and which others are near-duplicates of one.

    Args:
        texts: the held-out texts; those of fewer than `sieve.WORDS` words are left out.
        threshold: the share of words in common from which two texts are near-duplicates.

    Attributes:
        runs: the runs of words for a sieve.
    """

    def __init__(self, texts: Iterable[str], threshold: float) -> None:
        self._threshold = threshold
        self._texts = [text for text in dict.fromkeys(texts) if len(words_of(text)) >= WORDS]
        self._drawn = sketches(self._texts)
        tried: list[tuple[bytes, ...]] = []
        for text in self._texts:
            words = words_of(text)
            for offset in np.linspace(0, len(words) - WORDS, _TRIED).astype(int).tolist():
                tried.append(tuple(words[offset : offset + WORDS]))
        _, which, counts = np.unique(
            np.fromiter(map(hash, tried), np.int64, len(tried)), return_inverse=True, return_counts=True
        )
        rarest = np.argsort(counts[which].reshape(-1, _TRIED), axis=1, kind="stable")[:, :_KEPT]
        kept = (rarest + np.arange(len(rarest))[:, None] * _TRIED).ravel().tolist()
        self.runs: list[tuple[bytes, ...]] = [tried[number] for number in kept]

    def near(self, texts: Sequence[str]) -> np.ndarray:
        """Whether each text is a near-duplicate of one of them, or of a text that is one."""
        if not texts or not self._texts:
            return np.zeros(len(texts), bool)
        both = [*self._texts, *texts]
        drawn = np.concatenate([self._drawn, sketches(texts)])
        first = clusters(drawn, self._threshold, lambda places: [both[place] for place in places])
        return first[len(self._texts) :] < len(self._texts)
