"""What a verdict on several answers says: a letter, a side, a name, a tie, or ranks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Options, UnknownWords
from rlhf.data.layouts.values import number_of, these, words

TIES = frozenset(
    (
        "tie",
        "tied",
        "draw",
        "equal",
        "equally good",
        "same",
        "the same",
        "about the same",
        "no preference",
        "no difference",
        "both good",
        "both are good",
        "both equal",
        "tie (both good)",
        "a=b",
        "a = b",
    )
)
BOTH_BAD = frozenset(
    ("both bad", "both are bad", "bothbad", "both_bad", "tie (bothbad)", "tie (both bad)", "all bad")
)
_PLACES = {
    "first": 0,
    "left": 0,
    "one": 0,
    "second": 1,
    "right": 1,
    "two": 1,
    "third": 2,
    "three": 2,
    "fourth": 3,
    "four": 3,
}
_FILLERS = these(
    "response answer output option model candidate completion summary reply text assistant result "
    "is the was better best wins win won preferred winner version"
)
_AMOUNTS = these("little bit lot")
_DEGREES = these("much slightly clearly significantly strongly somewhat far way bit little lot")


class Verdict(NamedTuple):
    """A ranking of the answers, the smallest number best; None where the value says to leave it out."""

    ranking: list[Any] | None
    both_bad: bool | None = None
    note: str | None = None


@dataclass(frozen=True)
class Answers:
    """The answers that a verdict is about.

    Attributes:
        names: their columns, in order; numbers of a list where they stand in one.
        marks: the word of each name that tells it from the others, such as `a` and `b`.
        models: who wrote each, where the record says so.
        seen: the values of the verdicts in the first rows of the file: 1 means the first answer only where
            no value is 0.
    """

    names: Sequence[str]
    marks: Sequence[str]
    models: Sequence[str] = ()
    seen: frozenset[str] = frozenset()


def plain(value: Any) -> str:
    """A value as a word: small letters, one space between words, whole numbers without a fraction."""
    text = " ".join(str(value).lower().split())
    return text.removesuffix(".0") if re.fullmatch(r"-?[0-9]+\.0", text) else text


def verdict(value: Any, column: str, answers: Answers, options: Options) -> Verdict:
    """What a value of a verdict says.

    Raises:
        UnknownWords: nothing that is known, or nothing that is certain.
    """
    count = len(answers.names)
    if isinstance(value, (list, tuple)):
        return Verdict(_listed(value, column, answers, options))
    word = plain(value)
    mapped = {plain(key): told for key, told in options.words.items()}.get(word)
    if mapped is not None:
        return _mapped(mapped, column, answers)
    if word in TIES:
        return Verdict([1] * count, False)
    if word in BOTH_BAD:
        return Verdict([1] * count, True)
    if re.search(r"[<>]", word):
        return Verdict(_chain(word, value, column, answers, options))
    place = _place(word, answers)
    parts = re.split(r"[\s,;]+", word)
    if place is None and len(parts) > 1 and set(words(column)) & {"rank", "ranking", "order"}:
        # An order in letters or names; numbers may be ranks as well, and are asked for.
        places = [None if any(map(str.isdigit, part)) else _place(part, answers) for part in parts]
        if None not in places and len(set(places)) == len(places):
            return Verdict(_listed(parts, column, answers, options))
    if place is None:
        raise _unknown(value, column)
    degree = any(part in _DEGREES for part in words(word))
    return Verdict(_best(place, count), None, str(value) if degree else None)


def _mapped(told: str, column: str, answers: Answers) -> Verdict:
    """What a user's word map says."""
    count = len(answers.names)
    if told == "skip":
        return Verdict(None)
    if told in ("tie", "both_bad"):
        return Verdict([1] * count, told == "both_bad")
    place = answers.names.index(told) if told in answers.names else _PLACES.get(told)
    if place is None or place >= count:
        raise DataError(
            f"ingest.words says {ascii(told)[:40]}; it must be first, second, tie, both_bad, skip or one of "
            f"{', '.join(answers.names)}"
        )
    return Verdict(_best(place, count))


def _best(place: int, count: int) -> list[int]:
    return [1 if number == place else 2 for number in range(count)]


def _place(word: str, answers: Answers) -> int | None:
    """The place of the answer that a word names; None where it names none, or two could be meant."""
    same = [place for place, name in enumerate(answers.names) if words(name) == words(word)]
    if len(same) == 1:
        return same[0]
    models = [plain(model) for model in answers.models]
    if models.count(word) == 1:
        return models.index(word)
    said = words(word)
    # The article of `a little` is no answer's letter.
    following = zip_longest(said, said[1:])
    said = tuple(part for part, behind in following if part != "a" or behind not in _AMOUNTS)
    left = [part for part in said if part not in _FILLERS | _DEGREES]
    if "than" in left and {"better", "preferred"} & set(said):
        # Only these words before `than` praise what stands first: of `worse than` it is the other.
        left = left[: left.index("than")] if len(left) - left.index("than") <= 2 else left
    if len(left) != 1 or word.startswith("-"):
        return None
    mark = left[0]
    if mark.isdigit() and not _counts(answers):
        return None
    if mark in answers.marks:
        return list(answers.marks).index(mark)
    place = _PLACES.get(mark)
    if place is None and len(mark) == 1 and mark.isalpha():
        place = ord(mark) - ord("a")
    if place is None and mark.isdigit() and "0" not in answers.marks:
        place = int(mark) - 1
    return place if place is not None and 0 <= place < len(answers.names) else None


def _counts(answers: Answers) -> bool:
    """Whether the numbers among the verdicts count the answers: a scale from -3 to 3 does not, nor do 0 and 1
    for answers that are called A and B."""
    first = 0 if "0" in answers.marks else 1
    numbers = {word for word in answers.seen if re.fullmatch(r"[+-]?[0-9]+([.,][0-9]+)?", word)}
    return numbers <= {str(number) for number in range(first, first + len(answers.names))}


def _listed(value: Sequence[Any], column: str, answers: Answers, options: Options) -> list[Any]:
    """A list with a number an answer is its ranks; a list of names is their order, the best first."""
    if len(value) == len(answers.names) and all(_is_number(item) for item in value):
        ranks = [None if item is None else number_of(item, column) for item in value]
        lower = (options.direction or "lower") == "lower"
        return [rank if rank is None or lower else -rank for rank in ranks]
    places = [_place(plain(item), answers) for item in value]
    if None in places or len(set(places)) < len(places):
        raise _unknown(value, column)
    return [places.index(place) if place in places else None for place in range(len(answers.names))]


def _is_number(item: Any) -> bool:
    return item is None or (isinstance(item, (int, float)) and not isinstance(item, bool))


def _chain(word: str, value: Any, column: str, answers: Answers, options: Options) -> list[Any]:
    """`A > B = C`: what stands before `>` is better."""
    parts = re.split(r"\s*([<>=]+)\s*", word)
    if len({sign for signs in parts[1::2] for sign in signs} - {"="}) > 1 or any(
        len(set(signs)) > 1 for signs in parts[1::2]
    ):
        raise _unknown(value, column)  # `A > B < C` leaves A and C open, and `A >= B` whether they tie
    ranking: list[Any] = [None] * len(answers.names)
    rank = 0
    for number, name in enumerate(parts[::2]):
        place = _place(name, answers)
        if place is None or ranking[place] is not None:
            raise _unknown(value, column)
        sign = parts[2 * number - 1] if number else "="
        rank += 0 if set(sign) == {"="} else 1 if ">" in sign else -1
        ranking[place] = rank
    return ranking


def _unknown(value: Any, column: str) -> UnknownWords:
    return UnknownWords({(column, str(value)): 1})


Better = Literal["lower", "higher"]


def direction(name: str, options: Options) -> Better:
    """Which numbers of a column are the better ones, by its name or by what the user says.

    Raises:
        DataError: its name does not say it, and the user does not either.
    """
    if options.direction:
        return options.direction
    parts = set(words(name))
    if parts & {"rank", "ranks", "ranking", "rankings"}:
        return "lower"
    if parts & {
        "score",
        "scores",
        "rating",
        "ratings",
        "points",
        "stars",
        "grade",
        "reward",
        "rewards",
        "quality",
    }:
        return "higher"
    raise DataError(
        f"whether lower or higher numbers of {name!r} are better is not certain; set ingest.direction to "
        "lower or higher"
    )


def ranked(numbers: Mapping[str, Any] | Sequence[Any], better: Better) -> list[float | None]:
    """Numbers as a ranking, the smallest best."""
    values = list(numbers.values()) if isinstance(numbers, Mapping) else list(numbers)
    return [None if value is None else value if better == "lower" else -value for value in values]
