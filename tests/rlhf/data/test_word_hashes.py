"""Hashes of words: those of the words that a text has by itself, whatever stands beside it."""

from __future__ import annotations

import random

from rlhf.data.word_hashes import word_hashes, words_of

TEXTS = [
    "",
    "  ",
    "...",
    "a.b",
    "Don't stop",
    "É té  ÇA",
    "中文没有空格的文字很长很长很长很长很长很长",
    "x" * 50,
    "x" * 50 + " y",
    "eight888 nine99999 sixteen161616161 seventeen17171717",
    "a\x1cb c\u00a0d é",
    "a\x1cb",
    "\tA\nB\x0bC ",
    "ß STRASSE",
    "!? é",
    "\x00",
]


def test_words_have_the_same_hash_in_every_text() -> None:
    rng = random.Random(1)
    known: dict[bytes, int] = {}
    for _ in range(200):
        texts = rng.choices(TEXTS, k=rng.randrange(8))
        hashes, begins = word_hashes(texts)
        assert len(begins) == len(texts) + 1
        for text, start, end in zip(texts, begins, begins[1:], strict=False):
            words = words_of(text)
            assert len(words) == end - start, text
            for word, hashed in zip(words, hashes[start:end].tolist(), strict=True):
                assert known.setdefault(word, hashed) == hashed, text
    assert len(set(known.values())) == len(known)
