"""Spellings of a prompt are one prompt; what means something else stays apart."""

import random

import numpy as np
import pytest

from rlhf.data.distinct import first_of_spelling, near_copies, spelling


@pytest.mark.parametrize(
    "other",
    [
        "WHAT is the  capital of France",
        "what is the capital of france?!",
        "“What\tis the capital\u200b of France”…",
        "Ｗhat is the cápital of France",
    ],
)
def test_spellings_of_a_prompt_are_one(other):
    assert spelling(other) == spelling("What is the capital of France?")


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("2 + 3", "2 * 3"),
        ("2 + 3", "2 - 3"),
        ("1.5", "15"),
        ("a < b", "a > b"),
        ("हिन्दी", "हन्द"),
        ("?!", "..."),
    ],
)
def test_what_means_something_else_stays_apart(text, other):
    assert spelling(text) != spelling(other)


def test_near_copies_are_counted_and_different_questions_are_not():
    copies = [f"please tell me now what the capital of France is today number {i}" for i in range(50)]
    assert near_copies(copies) == pytest.approx(49 / 50)
    assert near_copies([f"question {i} about thing {7 * i}" for i in range(50)]) == 0
    assert near_copies(["?", "!"]) == near_copies(["one"]) == near_copies([" ", "\n"]) == 0
    assert near_copies(["", "one", "One two"]) == 0
    assert first_of_spelling(["A b", "a  B!", "c"]) == ["A b", "A b", "c"]


def test_words_are_those_that_scikit_learn_counts():
    from sklearn.feature_extraction.text import CountVectorizer

    rng = random.Random(0)
    words = ["Ça", "ça", "İstanbul", "ẞ", "don't", "a\u00a0b", "x\u2028y", "1\x1c2", "e\u0301", "😀", "?!"]
    texts = [" ".join(rng.choices(words, k=rng.randint(0, 7))) for _ in range(200)]
    chosen = list(dict.fromkeys(first_of_spelling(texts)))
    table = CountVectorizer(binary=True, token_pattern=r"\S+").fit_transform(chosen).astype(int).toarray()
    both, either = table @ table.T, (table[:, None] | table[None]).sum(axis=2)
    alike = np.tril(both >= 0.8 * np.maximum(either, 1), -1)
    assert 0 < near_copies(texts) == alike.any(axis=1).mean() < 1


@pytest.mark.parametrize(
    "mark", [*"\x00\x01\ufe0f\u115f\u3164\u2800\u180b\U000e0100\u034f\u00ad\u200d", *"。؟।؛"]
)
def test_what_shows_nothing_and_every_scripts_full_stop_make_no_other_prompt(mark):
    assert spelling(f"what now{mark}") == spelling("what now")
