"""References made worse on purpose: what is to be ranked below a reference where nobody ranked anything.

Each fault is one that a judge of answers must see: an answer to another prompt (Liu et al. 2024,
arXiv:2409.13156), words that are not the prompt's, words in no order, an answer that stops half way, and one
that says the same twice. Which text is worse is known by construction, so no labeler is needed; a model that
learns from such pairs alone learns these faults and no taste.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

_LONG = 4  # letters, from which a word counts as one of content
_WORDS = re.compile(r"\w+(?:[-'’]\w+)*")


def corrupted(reference: str, others: Sequence[str], n: int, rng: random.Random) -> list[tuple[str, str]]:
    """Up to n different faults of one reference.

    Args:
        reference: the text of which worse ones are made.
        others: references of other prompts.
        n: how many are wanted; short texts do not have all faults.
        rng: draws faults and words.

    Returns:
        (name of the fault, text), each text different from the others and from the reference.
    """
    made: dict[str, str] = {}
    for name in rng.sample(list(FAULTS), len(FAULTS)):
        text = FAULTS[name](reference, others, rng).strip()
        if len(made) < n and text and text != reference.strip() and text not in made:
            made[text] = name
    return [(name, text) for text, name in made.items()]


def _other(reference: str, others: Sequence[str], rng: random.Random) -> str:
    return rng.choice(others) if others else ""


def _swapped(reference: str, others: Sequence[str], rng: random.Random) -> str:
    """Half of the words of content are those of a reference to another prompt."""
    words = list(_WORDS.finditer(reference))
    ours = [word for word in words if len(word.group()) >= _LONG]
    theirs = [word for word in _WORDS.findall(_other(reference, others, rng)) if len(word) >= _LONG]
    count = min((len(ours) + 1) // 2, len(theirs))
    chosen = sorted(rng.sample(range(len(ours)), count), reverse=True)
    text = reference
    for place, word in zip(chosen, rng.sample(theirs, count), strict=True):
        start, end = ours[place].span()
        text = text[:start] + word + text[end:]
    return text


def _shuffled(reference: str, others: Sequence[str], rng: random.Random) -> str:
    words = reference.split()
    return " ".join(rng.sample(words, len(words)))


def _cut(reference: str, others: Sequence[str], rng: random.Random) -> str:
    words = reference.split()
    return " ".join(words[: max(1, round(len(words) * rng.uniform(0.3, 0.7)))])


def _repeated(reference: str, others: Sequence[str], rng: random.Random) -> str:
    words = reference.split()
    half = " ".join(words[: (len(words) + 1) // 2])
    return f"{half} {half}"


FAULTS: dict[str, Callable[[str, Sequence[str], random.Random], str]] = {
    "other": _other,
    "swapped": _swapped,
    "shuffled": _shuffled,
    "cut": _cut,
    "repeated": _repeated,
}
