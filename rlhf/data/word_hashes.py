"""The words by which texts are compared, and the hashes of those of many texts at once.

Python would make an object of every word. Here the texts lie one behind the other as bytes, and NumPy sees
where words begin and end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np

MARKS = b".,;:!?\"'`()[]{}<>*_"
LONG_WORD = 20  # bytes; texts whose words have as many on average are of a script without spaces
_PIECE = 3
_BETWEEN = b"\xff"  # no byte of UTF-8
_FIRST = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)  # the bytes that come first
_PRIME = np.uint64(0x9E3779B97F4A7C15)


def words_of(text: str) -> list[bytes]:
    """The words of a text in UTF-8, without case and ASCII punctuation; of a script without spaces, its runs
    of three characters. A text of punctuation alone is one word."""
    plain = text.casefold()
    bare = plain.encode().translate(None, MARKS)
    # Bytes are much faster than text, but know no other white space than ASCII's.
    words = bare.split() if text.isascii() else [word.encode() for word in bare.decode().split()]
    if not words:
        return [plain.strip().encode()]
    return words if len(bare) < LONG_WORD * len(words) else list(_pieces(words))


def _pieces(words: Iterable[bytes]) -> Iterator[bytes]:
    for word in words:
        text = word.decode()
        yield from (text[i : i + _PIECE].encode() for i in range(max(1, len(text) - _PIECE + 1)))


def word_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of `words_of` each text, text after text.

    Returns:
        hashes [words], int64; and where the words of each text begin, [texts + 1].
    """
    told = [text.encode() if text.isascii() else _as_words(text) for text in texts]
    hashes, begins, long_words = _of_bytes(told)
    if long_words.any():  # perhaps a script without spaces
        for number in np.flatnonzero(long_words).tolist():
            told[number] = _as_words(texts[number])
        hashes, begins, _ = _of_bytes(told)
    bare = np.flatnonzero(np.diff(begins) == 0)  # of punctuation alone
    for number in bare[::-1].tolist():
        word = _as_words(texts[number])
        hashes = np.insert(hashes, begins[number], _hashes(word, np.array([0]), np.array([len(word)])))
        begins[number + 1 :] += 1
    return hashes, begins


def _as_words(text: str) -> bytes:
    return b" ".join(words_of(text))


def _of_bytes(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes, where those of each text begin, and which texts have long words; of ASCII, or words already."""
    whole = b"".join(chain([_BETWEEN], *((text, _BETWEEN) for text in texts)))
    plain = whole.lower().translate(None, MARKS)
    content = np.frombuffer(plain, np.uint8)
    text_ends = np.flatnonzero(content == _BETWEEN[0])
    space = (content == 32) | ((content >= 9) & (content <= 13)) | (content == _BETWEEN[0])
    edges = np.flatnonzero(space[1:] != space[:-1]) + 1  # a word begins, it ends, the next begins ...
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    begins = np.searchsorted(starts, text_ends)
    sizes, counts = np.diff(text_ends) - 1, np.diff(begins)
    ascii_alone = np.fromiter(map(bytes.isascii, texts), bool, len(texts))
    long_words = ascii_alone & (counts > 0) & (sizes >= LONG_WORD * counts)
    return _hashes(plain, starts, lengths), begins, long_words


def _hashes(content: bytes, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The hash of the bytes from each start on, eight bytes in a step as FNV takes one (Fowler et al. 1991),
    with the high bits folded in."""
    padded = content + bytes(8)
    eight = np.ndarray(len(content) + 1, np.dtype("<u8"), padded, strides=(1,))  # those from each byte on
    hashes = _mixed(lengths.astype(np.uint64), eight[starts] & _FIRST[np.minimum(lengths, 8)])
    longer = np.flatnonzero(lengths > 8)
    done = 8
    while len(longer):
        rest = _FIRST[np.minimum(lengths[longer] - done, 8)]
        hashes[longer] = _mixed(hashes[longer], eight[starts[longer] + done] & rest)
        done += 8
        longer = longer[lengths[longer] > done]
    return hashes.view(np.int64)


def _mixed(hashes: np.ndarray, content: np.ndarray) -> np.ndarray:
    hashes = (hashes ^ content) * _PRIME
    return hashes ^ (hashes >> np.uint64(32))
