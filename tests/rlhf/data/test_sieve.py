"""The sieve over the bytes of texts: whatever holds a run of words passes, and little else."""

from __future__ import annotations

import random

import pytest

from rlhf.data.near_duplicates import words_of
from rlhf.data.sieve import WORDS, Sieve

TEXT = "The harbour was closed for the winter, and no ship came in until the ice broke."
BLANKS = [" ", "  ", "\n", "\t\r\n", "\u00a0", "\u3000 ", "\x1f"]
LETTERS = [
    "a",
    "B",
    "ab",
    "ship",
    "\u00dc",
    "\u00df",
    "caf\u00e9",
    "x,",
    '"no"',
    "I.",
    "\u201cyes\u201d",
    "7",
]


def held(text: str) -> bool:
    """Whether a text has the first words of `TEXT` in order, looked at word by word."""
    run, words = words_of(TEXT)[:WORDS], words_of(text)
    return any(words[i : i + WORDS] == run for i in range(len(words)))


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"before {TEXT.upper()}",
        TEXT.replace(" ", " \n "),
        TEXT.replace(" ", " " * 40),
        f"\u201c{TEXT}\u201d \u00fc".replace(" ", "\u00a0", 3).replace("\u201c", " "),
        f"a\0b {TEXT}",
        TEXT.replace(",", " ( , "),
    ],
)
def test_a_text_with_the_run_passes_in_every_spelling(text: str) -> None:
    sieve = Sieve([words_of(TEXT)[:WORDS], words_of("of other words there is a run as well")[:WORDS]])
    assert held(text) or "\0" in text or " " * 40 in text  # read in pieces, where blanks are many
    unlike = "The harbors were closed for the winter, and no ship came in until the ice broke."
    assert sieve.lets_through(["no", text, unlike]).tolist() == ["\0" in text, True, "\0" in text]


def test_whatever_holds_a_run_passes() -> None:
    rng = random.Random(5)

    def text(number: int) -> str:
        return "".join(rng.choice(LETTERS) + rng.choice(BLANKS) for _ in range(number))

    def spread(run: list[bytes]) -> str:
        return "".join(word.decode() + rng.choice(BLANKS) for word in run)

    for _ in range(40):
        runs = [run for _ in range(6) if len(run := words_of(text(9))[:WORDS]) == WORDS]
        texts = [f"{text(3)} {spread(rng.choice(runs))} {text(4)}" for _ in range(6)]
        texts += [text(12) for _ in range(6)]
        through = Sieve(runs).lets_through(texts)
        for one_text, passes in zip(texts, through, strict=True):
            words = words_of(one_text)
            has = any(words[i : i + WORDS] in runs for i in range(len(words)))
            assert passes or not has, (one_text, runs)


def test_what_is_read_in_pieces_passes() -> None:
    """Of a script without blanks, and of words with many of them between, a run is no run of the bytes."""
    for text in ("\u6e2f\u53e3" * 30, TEXT.replace(" ", " " * 40)):
        assert Sieve([words_of(text)[:WORDS]]).lets_through([text, TEXT[:20]]).tolist() == [True, False]


def test_a_sieve_of_nothing_lets_nothing_through() -> None:
    assert Sieve([]).lets_through([TEXT, ""]).tolist() == [False, False]
    assert Sieve([words_of(TEXT)[:WORDS]]).lets_through([]).tolist() == []
    assert Sieve([words_of(TEXT)[:WORDS]]).lets_through(["", "a"]).tolist() == [False, False]
