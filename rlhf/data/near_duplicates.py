"""Near-duplicates: which texts have most of their words in common, found without comparing all pairs.

MinHash (Broder 1997): the least hash of a set of words, under many hash functions, agrees between two texts
as often as their words do (intersection over union, Jaccard 1912). Of each of `HASHES` values the lowest byte
is kept (b-bit minwise hashing, Li and König 2010), and only texts that agree in all values of one of `BANDS`
bands are compared (locality-sensitive hashing, Leskovec et al. 2020, section 3.4). Of pairs with 0.8 in
common 986 of 1,000 share a band, and 998 of those with 0.85. The estimate has a standard error of 0.04, so
where it leaves the matter open, the words themselves are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from rensa import RMinHash

from rlhf.data.word_hashes import word_hashes, words_of

BANDS, IN_BAND = 14, 6
HASHES = BANDS * IN_BAND
_SEED = 1
_CHANCE = 1 / 256  # of two bytes to be equal
_ERROR = 0.13  # three standard errors of an estimate at 0.8; what is nearer to the threshold is looked at
_TOGETHER = 2048  # texts sketched at a time
_COMPARED = 65_536  # pairs compared at a time
TextsAt = Callable[[np.ndarray], Sequence[str]]


def sketches(texts: Iterable[str]) -> np.ndarray:
    """A sketch of each text.

    Returns:
        [texts, HASHES], bytes.
    """
    texts = list(texts)
    parts = [np.empty((0, HASHES), np.uint8)]
    for start in range(0, len(texts), _TOGETHER):
        hashes, begins = word_hashes(texts[start : start + _TOGETHER])
        drawn = RMinHash.digest_matrix_from_flat_token_hashes(
            hashes.view(np.uint64), begins, num_perm=HASHES, seed=_SEED
        )
        parts.append(np.array(drawn.to_rows(), np.uint32).astype(np.uint8))  # the lowest bytes
    return np.concatenate(parts)


def in_common(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The share of words that texts have in common, estimated from their sketches.

    Args:
        left, right: [pairs, HASHES].

    Returns:
        [pairs], 0 to 1.
    """
    agree = (left == right).mean(axis=1)
    return np.clip((agree - _CHANCE) / (1 - _CHANCE), 0, 1)


def clusters(drawn: np.ndarray, threshold: float, texts_at: TextsAt) -> np.ndarray:
    """Groups of near-duplicates: texts that a chain of near-duplicate pairs connects.

    Args:
        drawn: sketches, [texts, HASHES].
        threshold: the share of words in common from which two texts are near-duplicates.
        texts_at: gives the texts at places, in ascending order, for pairs whose sketches leave it open.

    Returns:
        [texts], for each text the first text of its group; its own place where it has no near-duplicate.
    """
    left, right = near_pairs(drawn, threshold, texts_at)
    first = np.arange(len(drawn))
    while True:  # each round, a text takes the earliest of what it and its neighbours have
        before = first.copy()
        earliest = np.minimum(first[left], first[right])
        np.minimum.at(first, left, earliest)
        np.minimum.at(first, right, earliest)
        first = first[first]  # and what that one has, so that long chains take few rounds
        if np.array_equal(first, before):
            return first


def near_pairs(drawn: np.ndarray, threshold: float, texts_at: TextsAt) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of near-duplicates, enough of them to connect each group: two arrays of places (`clusters`)."""
    near, unsure = [np.empty((0, 2), np.int64)], [np.empty((0, 2), np.int64)]
    for pairs in candidates(drawn):
        for start in range(0, len(pairs), _COMPARED):
            some = pairs[start : start + _COMPARED]
            share = in_common(drawn[some[:, 0]], drawn[some[:, 1]])
            near.append(some[share >= threshold + _ERROR])
            unsure.append(some[np.abs(share - threshold) < _ERROR])
    looked_at = np.unique(np.concatenate(unsure), axis=0)
    for start in range(0, len(looked_at), _TOGETHER):
        some = looked_at[start : start + _TOGETHER]
        places = np.unique(some)
        words = [frozenset(words_of(text)) for text in texts_at(places)]
        alike = [_shared(words[a], words[b]) >= threshold for a, b in np.searchsorted(places, some)]
        near.append(some[np.array(alike, bool)])
    together = np.concatenate(near)
    return together[:, 0], together[:, 1]


def shared(left: str, right: str) -> float:
    """The share of words that two texts have in common, 0 to 1."""
    return _shared(frozenset(words_of(left)), frozenset(words_of(right)))


def _shared(left: frozenset[bytes], right: frozenset[bytes]) -> float:
    return len(left & right) / len(left | right)


def candidates(drawn: np.ndarray) -> Iterator[np.ndarray]:
    """For each band, the texts that share it with an earlier text, each beside the first that has it.

    In a band of many texts each is paired with the first alone, so that the work grows with the texts and not
    with their square.

    Returns:
        arrays [pairs, 2] of places.
    """
    padded = np.zeros((len(drawn), 8), np.uint8)
    for band in range(BANDS):
        padded[:, :IN_BAND] = drawn[:, band * IN_BAND : (band + 1) * IN_BAND]
        keys = padded.view(np.uint64).ravel()
        order = np.argsort(keys, kind="stable")
        begins = np.concatenate([[True], np.diff(keys[order]) != 0])[: len(keys)]
        first = order[np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0))]
        yield np.stack([first[~begins], order[~begins]], axis=1)
