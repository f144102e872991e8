"""What a verdict on several answers says: a letter, a side, a name, a tie, or ranks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Options, UnknownWords
from rlhf.data.layouts.values import is_numeral, number_of, words
from rlhf.data.layouts.verdict_words import DEGREES, Answers, place_of, plain, tie_of
from rlhf.data.near import meant


class Verdict(NamedTuple):
    """A ranking of the answers, the smallest number best; None where the value says to leave it out."""

    ranking: list[Any] | None
    both_bad: bool | None = None
    note: str | None = None
    scores: list[float | None] | None = None


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
    if tie := tie_of(value):
        return Verdict([1] * count, tie == "both_bad")
    if re.search(r"[<>=]", word):
        return Verdict(_chain(word, value, column, answers))
    place = place_of(word, answers)
    parts = re.split(r"[\s,;]+", word)
    if place is None and len(parts) > 1 and set(words(column)) & {"rank", "ranking", "order"}:
        # An order in letters or names; numbers may be ranks as well, and are asked for.
        places = [None if any(map(str.isdigit, part)) else place_of(part, answers) for part in parts]
        if None not in places and len(set(places)) == len(places):
            return Verdict(_listed(parts, column, answers, options))
    if place is None:
        raise _unknown(value, column)
    degree = any(part in DEGREES for part in words(word))
    return Verdict(_best(place, count), None, str(value) if degree else None)


def _mapped(told: str, column: str, answers: Answers) -> Verdict:
    """What a user's word map says."""
    count = len(answers.names)
    if told == "skip":
        return Verdict(None)
    if told in ("tie", "both_bad"):
        return Verdict([1] * count, told == "both_bad")
    place = answers.names.index(told) if told in answers.names else place_of(told, answers)
    if place is None:
        known = ("first", "second", "tie", "both_bad", "skip", *answers.names)
        raise DataError(
            f"ingest.words says {ascii(told)[:40]}; it must be {', '.join(known[:5])} or one of "
            f"{', '.join(answers.names)}{meant(told, known)}"
        )
    return Verdict(_best(place, count))


def _best(place: int, count: int) -> list[int]:
    return [1 if number == place else 2 for number in range(count)]


def _listed(value: Sequence[Any], column: str, answers: Answers, options: Options) -> list[Any]:
    """A list with a number an answer is its ranks, also where texts spell them; a list of names is their
    order, the best first."""
    if len(value) == len(answers.names) and all(map(is_numeral, value)) and "order" not in words(column):
        ranks = [None if item is None else number_of(item, column) for item in value]
        lower = (options.direction or "lower") == "lower"
        return [rank if rank is None or lower else -rank for rank in ranks]
    places = [place_of(item, answers) for item in value]
    if None in places or len(set(places)) < len(places):
        raise _unknown(value, column)
    return [places.index(place) if place in places else None for place in range(len(answers.names))]


def _chain(word: str, value: Any, column: str, answers: Answers) -> list[Any]:
    """`A > B = C`: what stands before `>` is better."""
    parts = re.split(r"\s*([<>=]+)\s*", word)
    if len({sign for signs in parts[1::2] for sign in signs} - {"="}) > 1 or any(
        len(set(signs)) > 1 for signs in parts[1::2]
    ):
        raise _unknown(value, column)  # `A > B < C` leaves A and C open, and `A >= B` whether they tie
    ranking: list[Any] = [None] * len(answers.names)
    rank = 0
    for number, name in enumerate(parts[::2]):
        place = place_of(name, answers)
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
