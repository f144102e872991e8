"""A sieve over texts: which of many may hold one of some runs of words, at nanoseconds a byte.

All texts become one string of bytes: without case and punctuation, one blank between words. Where a word
begins, the `WIDTH` bytes from there are compared with those of the runs, for all words at once. What passes
has to be looked at word by word; what does not pass holds none of the runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from rlhf.data.word_hashes import LONG_WORD, MARKS

WORDS = 8  # of a run, at least; with the blanks between them they are `WIDTH` bytes or more
WIDTH = 2 * WORDS - 1
_BITS = 20  # of a table that tells in one look that most words begin no run
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
# White space that bytes do not know. Three blanks in its place are as many bytes at least, so that no text
# seems to be shorter than it is.
_WIDE_BLANK = re.compile(r"[^\S \t\n\r\x0b\x0c]")
_BLANKS = bytes.maketrans(b"\t\n\r\x0b\x0c", b"     ")


class Sieve:
    """Lets texts through that may hold a run of words.

    Args:
        runs: words without case and punctuation (`near_duplicates.words_of`), `WORDS` or more for each run.
    """

    def __init__(self, runs: Sequence[Sequence[bytes]]) -> None:
        begins = b"".join(b" ".join(words)[:WIDTH] for words in runs)
        self._keys = np.unique(
            _keys(np.frombuffer(begins + bytes(8), np.uint8), np.arange(len(runs)) * WIDTH)
        )
        self._may_be = np.zeros(2**_BITS, bool)
        self._may_be[_place(self._keys)] = True

    def lets_through(self, texts: Sequence[str]) -> np.ndarray:
        """Whether each text may hold one of the runs."""
        through = np.zeros(len(texts), bool)
        if not len(self._keys) or not texts:
            return through
        joined = "\0".join(["", *map(_folded, texts), ""]).encode()
        if joined.count(0) != len(texts) + 1:
            return ~through  # a text has the character that parts them
        flat = np.frombuffer(joined.translate(_BLANKS), np.uint8)
        sizes = np.diff(np.flatnonzero(flat == 0))
        flat = np.frombuffer(joined.translate(_BLANKS, MARKS), np.uint8)
        blank = flat == ord(" ")
        blank[1:] &= blank[:-1].copy()
        blank[0] = False
        flat = flat[~blank]
        apart = (flat == ord(" ")) | (flat == 0)
        begins = np.flatnonzero(apart[:-1] & ~apart[1:]) + 1
        ends = np.flatnonzero(flat == 0)  # in front of each text, and behind the last
        keys = _keys(np.concatenate([flat, np.zeros(WIDTH, np.uint8)]), begins)
        maybe = np.flatnonzero(self._may_be[_place(keys)])
        held = begins[maybe[np.isin(keys[maybe], self._keys)]]
        through[np.searchsorted(ends, held) - 1] = True
        # Texts whose words are long on average are read in pieces, which are no run of the bytes.
        words = np.diff(np.searchsorted(begins, ends))
        return through | ((sizes > LONG_WORD * words) & (words > 0))


def _folded(text: str) -> str:
    """A text without case, in which every blank is one of ASCII."""
    return text.casefold() if text.isascii() else _WIDE_BLANK.sub("   ", text.casefold())


def _keys(flat: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """A number for the `WIDTH` bytes from each place on."""
    eight = np.ndarray(len(flat) - 7, "<u8", np.ascontiguousarray(flat), strides=(1,))
    return (eight[begins] * _FACTOR ^ eight[begins + WORDS - 1]) * _FACTOR


def _place(keys: np.ndarray) -> np.ndarray:
    return (keys >> np.uint64(64 - _BITS)).astype(np.int64)
