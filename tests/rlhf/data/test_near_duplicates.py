"""Near-duplicates: the pairs that sharing words makes them, none else, in whatever script."""

from __future__ import annotations

import random

import numpy as np
import pytest

from rlhf.data.near_duplicates import clusters, in_common, sketches, words_of


def groups(texts: list[str], threshold: float) -> list[int]:
    return clusters(sketches(texts), threshold, lambda at: [texts[i] for i in at.tolist()]).tolist()


def text_of(rng: random.Random, words: int) -> list[str]:
    return [f"w{rng.randrange(10**6)}" for _ in range(words)]


def test_sketches_estimate_the_share_of_words_in_common() -> None:
    rng = random.Random(1)
    for shared in (0, 10, 30, 48):
        estimates = []
        for _ in range(200):
            both = text_of(rng, shared)
            left, right = (sketches([" ".join(both + text_of(rng, 50 - shared))]) for _ in range(2))
            estimates.append(in_common(left, right)[0])
        assert abs(np.mean(estimates) - shared / (100 - shared)) < 0.02


def test_pairs_at_the_threshold_are_near_and_pairs_below_are_not() -> None:
    rng = random.Random(2)
    texts, expected = [], []
    for changed in (0, 1, 2, 3, 4, 5, 8):  # of 40 words: in common 1, .95, .90, .86, .82, .78, .67
        for _ in range(30):
            words = text_of(rng, 40)
            other = words[changed:] + text_of(rng, changed)
            rng.shuffle(other)
            first = len(texts)
            texts += [" ".join(words), " ".join(other)]
            expected += [first, first if changed <= 4 else first + 1]
    grouped = groups(texts, 0.8)
    missed = [i for i, (a, b) in enumerate(zip(grouped, expected, strict=True)) if a != b]
    assert len(missed) <= 1, missed  # at .82 one pair in a few hundred shares no band
    assert all(grouped[i] == i for i in range(0, len(texts), 2))  # no two of different origin


def test_groups_are_chains_and_named_by_their_first() -> None:
    base = [f"word{i}" for i in range(20)]
    chain = [" ".join(base[:20]), "nothing in common at all", " ".join([*base[1:], "x"])]
    chain.append(" ".join([*base[2:], "x", "y"]))  # .82 of the one before, .9 / 1.1 of the first
    assert groups(chain, 0.85) == [0, 1, 0, 0]
    assert groups([], 0.8) == []
    assert groups(["a"], 0.8) == [0]
    many = ["the same question again"] * 5000
    assert groups(many, 0.9) == [0] * 5000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What is it, then?", ["what", "is", "it", "then"]),
        ("WHAT  is\\nit then", ["what", "is", "it", "then"]),
        ("Wo\u3000ist\u00a0es?", ["wo", "ist", "es"]),
        ("???", ["???"]),
        ("", [""]),
        ("a" * 22, ["aaa"] * 20),
    ],
)
def test_words_are_without_case_and_punctuation(text: str, words: list[str]) -> None:
    assert [word.decode() for word in words_of(text.replace("\\n", "\n"))] == words


def test_scripts_without_spaces_are_compared_too() -> None:
    question = "東京から大阪まで新幹線で行くとどのくらい時間がかかりますか教えてください"
    assert groups([question, question + "。", "別の質問です"], 0.8) == [0, 0, 2]
    assert groups([question, question[::-1]], 0.8) == [0, 1]
