"""A sieve over texts: which of many may hold one of some runs of words, at nanoseconds a byte.

All texts become one string of bytes: without case and punctuation, one blank between words. Where a word
begins, the `WIDTH` bytes from there are compared with those of the runs, for all words at once. What passes
has to be looked at word by word; what does not pass holds none of the runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.columns import values_of
from rlhf.data.word_hashes import LONG_WORD, MARKS

WORDS = 8  # of a run, at least; with the blanks between them they are `WIDTH` bytes or more
WIDTH = 2 * WORDS - 1
_BITS = 20  # of a table that tells in one look that most words begin no run
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
# White space that bytes do not know. Three blanks in its place are as many bytes at least, so that no text
# seems to be shorter than it is.
_WIDE_BLANK = re.compile(r"[^\S \t\n\r\x0b\x0c]")
_CAPITALS = bytes(range(ord("A"), ord("Z") + 1))
_PLAIN = bytes.maketrans(b"\t\n\r\x0b\x0c" + _CAPITALS, b"     " + _CAPITALS.lower())


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

    def lets_through(self, texts: Sequence[str] | pa.Array) -> np.ndarray:
        """Whether each text may hold one of the runs.

        Args:
            texts: best an Arrow array, of which no text becomes an object of Python; null is an empty text.
        """
        through = np.zeros(len(texts), bool)
        if not len(self._keys) or not len(texts):
            return through
        folded = _folded(texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string()))
        whole = pa.ListArray.from_arrays(pa.array([0, len(folded)], pa.int32()), folded)
        joined = b"\0%b\0" % pc.binary_join(whole, "\0")[0].as_buffer()
        if joined.count(0) != len(texts) + 1:
            return ~through  # a text has the character that parts them
        flat = np.frombuffer(joined.translate(_PLAIN, MARKS), np.uint8)
        blank = flat == ord(" ")
        again = blank[1:] & blank[:-1]
        if again.any():
            flat = flat[np.concatenate([[True], ~again])]
            blank = flat == ord(" ")
        apart = blank | (flat == 0)
        begins = np.flatnonzero(apart[:-1] & ~apart[1:]) + 1
        ends = np.flatnonzero(flat == 0)  # in front of each text, and behind the last
        keys = _keys(np.concatenate([flat, np.zeros(WIDTH, np.uint8)]), begins)
        maybe = np.flatnonzero(self._may_be[_place(keys)])
        nearest = np.searchsorted(self._keys, keys[maybe]).clip(max=len(self._keys) - 1)
        held = begins[maybe[self._keys[nearest] == keys[maybe]]]
        through[np.searchsorted(ends, held) - 1] = True
        # Texts whose words are long on average are read in pieces, which are no run of the bytes.
        words = np.diff(np.searchsorted(begins, ends))
        sizes = pc.binary_length(folded).to_numpy() + 1
        return through | ((sizes > LONG_WORD * words) & (words > 0))


def _folded(texts: pa.Array) -> pa.Array:
    """Texts in which every blank is one of ASCII; without case, but for capitals of texts of ASCII alone."""
    texts = pc.fill_null(texts, "")
    wide = pc.invert(pc.string_is_ascii(texts))
    if not pc.any(wide).as_py():
        return texts
    folded = [_WIDE_BLANK.sub("   ", text.casefold()) for text in values_of(texts.filter(wide))]
    return pc.replace_with_mask(texts, wide, pa.array(folded, pa.string()))


def _keys(flat: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """A number for the `WIDTH` bytes from each place on."""
    eight = np.ndarray(len(flat) - 7, "<u8", np.ascontiguousarray(flat), strides=(1,))
    return (eight[begins] * _FACTOR ^ eight[begins + WORDS - 1]) * _FACTOR


def _place(keys: np.ndarray) -> np.ndarray:
    return (keys >> np.uint64(64 - _BITS)).astype(np.int64)
