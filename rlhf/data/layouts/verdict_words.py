"""The words of verdicts, for all layouts: which answer a word names, that the answers tie, that none will do.

Only what is certain is read: a word that is in no table here means nothing, and `ingest.words` maps it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from rlhf.data.layouts.values import these, words

# Phrases without the words of `_BESIDE`, written in one.
_TIES = these(
    "tie tied ties draw drawn even equal equals equally equallygood equallywell equallyhelpful similar same "
    "comparable both bothgood bothfine bothok bothokay bothgreat bothacceptable bothequal bothequallygood "
    "bothsame tiebothgood bothgoodtie either eitherfine nopreference nodifference nowinner noclearwinner "
    "noonebetter nonebetter neitherbetter neitherpreferred indifferent tossup 5050"
)
_BOTH_BAD = these(
    "bothbad bothpoor bothwrong bothincorrect bothterrible bothawful bothunacceptable bothunsafe bothfail "
    "bothfailed bothequallybad equallybad equallypoor tiebothbad bothbadtie allbad allwrong neither "
    "neithergood neitheracceptable neithercorrect nonegood noneacceptable nogoodanswer nogood"
)
_PLACES = {
    **dict.fromkeys(("first", "left", "one", "former"), 0),
    **dict.fromkeys(("second", "right", "two", "latter"), 1),
    **dict.fromkeys(("third", "three"), 2),
    **dict.fromkeys(("fourth", "four"), 3),
}
_OF_TWO = these("left right former latter")
_NOUNS = these(
    "response answer output option model candidate completion summary reply text assistant result choice "
    "generation version system"
)
_BESIDE = these("the is are was were it they its there of them about roughly nearly quite pretty very") | {
    f"{noun}{end}" for noun in _NOUNS for end in ("", "s")
}
_FILLERS = _NOUNS | these(
    "is the was better best wins win won winner prefer prefers preferred choose chose chosen pick picked "
    "select selected number st nd rd th"
)
_WANTS = these("prefer prefers preferred choose chose pick like")
_AMOUNTS = these("little bit lot")
DEGREES = these("much slightly clearly significantly strongly somewhat far way bit little lot")
_SIGNS = str.maketrans(
    {"👈": " left ", "⬅": " left ", "👉": " right ", "➡": " right ", "🤝": " tie ", "🟰": " tie "}
    | {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "."}
)
_SHADES = re.compile("[\ufe0f\u20e3\U0001f3fb-\U0001f3ff]")  # what only changes how a sign looks


@dataclass(frozen=True)
class Answers:
    """The answers that a verdict is about.

    Attributes:
        names: their columns, in order; numbers of a list where they stand in one.
        marks: the word of each name that tells it from the others, such as `a` and `b`; empty where it has
            none.
        models: who wrote each, where the record says so.
        seen: the values of the verdicts in the first rows of the file: 1 means the first answer only where
            no value is 0.
        most: how many answers a row of the file may have, where this one has fewer.
    """

    names: Sequence[str]
    marks: Sequence[str]
    models: Sequence[str] = ()
    seen: frozenset[str] = frozenset()
    most: int = 0


def plain(value: Any) -> str:
    """A value as a word: small letters, one space between words, whole numbers without a fraction.

    >>> plain(" Both  BAD "), plain(2.0)
    ('both bad', '2')
    """
    text = " ".join(_SHADES.sub("", str(value)).translate(_SIGNS).lower().split())
    return text.removesuffix(".0") if re.fullmatch(r"-?[0-9]+\.0", text) else text


def tie_of(value: Any) -> Literal["tie", "both_bad"] | None:
    """Whether a value says that all answers tie, or that none will do.

    >>> tie_of("About the same"), tie_of("Both responses are bad"), tie_of("A tie"), tie_of("the first")
    ('tie', 'both_bad', 'tie', None)
    """
    word = plain(value)
    if not word.isascii():
        return None
    said = [part for part in words(word) if part not in _BESIDE]
    if len(said) > 1 and said[0] == "a":
        said = said[1:]  # `a tie`
    joined = "".join(said)
    return "tie" if joined in _TIES else "both_bad" if joined in _BOTH_BAD else None


def place_of(value: Any, answers: Answers) -> int | None:
    """The place of the answer that a value names; None where it names none, or two could be meant."""
    word = plain(value)
    same = [place for place, name in enumerate(answers.names) if plain(name) == word or _alike(name, word)]
    if len(same) == 1:
        return same[0]
    models = [plain(model) for model in answers.models]
    if models.count(word) == 1:
        return models.index(word)
    if not word.isascii() or word[:1] in ("-", "!", "~"):
        return None  # words that cannot be read, or that say the contrary
    said = words(word)
    # The article of `a little` is no answer's letter, and neither is the person of `I prefer`.
    following = list(zip_longest(said, said[1:]))
    said = tuple(
        part
        for part, behind in following
        if not (part == "a" and behind in _AMOUNTS) and not (part == "i" and behind in _WANTS)
    )
    left = [part for part in said if part not in _FILLERS | DEGREES | _WANTS]
    if len(left) == 2 and left[1] == "one":
        left = left[:1]  # `the first one`
    parting = these("over beats") | (these("than to") if {"better", *_WANTS} & set(said) else frozenset())
    if len(left) == 3 and left[1] in parting:
        # Only these words praise what stands first: of `worse than` it is the other.
        better, other = _marked(left[0], answers), _marked(left[2], answers)
        return better if better is not None and (other not in (None, better) or left[2] == "other") else None
    return _marked(left[0], answers) if len(left) == 1 else None


def _alike(name: str, word: str) -> bool:
    return word.isascii() and words(name) == words(word) != ()


def _marked(mark: str, answers: Answers) -> int | None:
    """The place of the answer of this mark: its letter, its number, or a word for its place."""
    marks, count = list(answers.marks), len(answers.names)
    if mark.isdigit() and not _counts(answers):
        return None
    if mark in marks:
        return marks.index(mark) if marks.count(mark) == 1 else None
    letters = all(len(own) == 1 and own.isalpha() for own in marks)
    digits = all(own.isdigit() for own in marks)
    if (letters and len(mark) == 1 and mark.isalpha()) or (digits and mark.isdigit()):
        return None  # the letter or number of an answer that is not there
    place = _PLACES.get(mark)
    if place is not None:
        # Of the answers A and C, of which B was left empty, nothing says which the second is.
        certain = count == 2 if mark in _OF_TWO else count >= answers.most
        return place if certain and place < count else None
    if len(mark) == 1 and mark.isalpha():
        place = ord(mark) - ord("a")
    elif mark.isdigit() and "0" not in marks:
        place = int(mark) - 1
    return place if place is not None and 0 <= place < count else None


def _counts(answers: Answers) -> bool:
    """Whether the numbers among the verdicts count the answers: a scale from -3 to 3 does not, nor do 0 and 1
    for answers that are called A and B."""
    first = 0 if "0" in answers.marks else 1
    numbers = {word for word in answers.seen if re.fullmatch(r"[+-]?[0-9]+([.,][0-9]+)?", word)}
    most = max(len(answers.names), answers.most)
    return numbers <= {str(number) for number in range(first, first + most)}
