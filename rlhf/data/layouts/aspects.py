"""Judgments under keys, such as `{"helpful": "A", "safe": "B"}`: by aspect, by person, or an answer each.

Of aspects the overall one counts, or those that `ingest.aspects` names; else the user is asked, because what
is more helpful may be less safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Notes, Options
from rlhf.data.layouts.values import PEOPLE, filled, number_of, these, words
from rlhf.data.near import meant

OVERALL = these("overall general total final")
# Stems of what answers are judged by; `helpful` and `helpfulness` have one.
_STEMS = tuple(
    sorted(
        these(
            "helpful harmless harmful honest truth correct coheren complex verbos safe safety toxic bias "
            "fair accura fluen relevan complete concise clarity clear creativ factual faithful consisten "
            "informative instruction style tone grammar quality depth detail length format engag polite "
            "empath coverage ground redundan usefulness useful readab structur natural specific novel humor "
            "interesting understand appropriate privacy legal ethic moral logic reason sound valid level"
        )
        | OVERALL
    )
)
NAMES = (
    "aspect",
    "dimension",
    "criterion",
    "criteria",
    "attribute",
    "axis",
    "category",
    "metric",
    "question",
)


def is_aspect(name: str) -> bool:
    """Whether a name is one of what answers are judged by: `helpfulness`, `Overall quality`."""
    said = words(name)
    return bool(said) and said[0].startswith(_STEMS) and not set(said) & PEOPLE


def are_aspects(keys: Iterable[Any], options: Options) -> bool:
    """Whether keys are aspects: one of them is called as an aspect is, or the user says so."""
    wanted = {words(name) for name in options.aspects}
    return any(words(str(key)) in wanted or is_aspect(str(key)) for key in keys)


def deciding(keys: Iterable[Any], what: str, options: Options, notes: Notes) -> dict[Any, float]:
    """The aspects that decide, of keys, and their weights.

    Args:
        keys: the aspects that there are.
        what: the column, for messages.
        options: `aspects` are the weights.
        notes: gets which aspects decide.

    Raises:
        DataError: nothing says which decide, another decided in an earlier record, or the user names none of
            them.
    """
    spelled = {words(str(key)): key for key in keys}
    there = ", ".join(map(repr, spelled.values()))
    if options.aspects:
        wanted = {words(name): (name, weight) for name, weight in options.aspects.items()}
        if missing := [name for key, (name, _) in wanted.items() if key not in spelled]:
            near = meant(missing[0], map(str, spelled.values()))
            raise DataError(
                f"{what} has no {missing[0]!r}, which ingest.aspects names; there are {there}{near}"
            )
        chosen = {spelled[key]: weight for key, (_, weight) in wanted.items()}
    else:
        overall = [key for said, key in spelled.items() if set(said) & OVERALL]
        sole = overall if len(overall) == 1 else list(spelled.values())
        if len(sole) != 1:
            raise DataError(
                f"{what} is judged by {there}; say which counts in ingest.aspects, such as {{{sole[0]}: 1}}"
            )
        if notes.first(("aspect", what), sole[0]) != sole[0]:
            raise DataError(
                f"{what} is judged by {there} here, and by {notes.first(('aspect', what), None)!r} in an "
                f"earlier record; say which counts in ingest.aspects, such as {{{sole[0]}: 1}}"
            )
        chosen = {sole[0]: 1.0}
    told = " + ".join(f"{'' if weight == 1 else f'{weight:g} '}{key}" for key, weight in chosen.items())
    notes.say(f"{what}: {told} decides (ingest.aspects says which aspects count)")
    return chosen


def deciding_one(keys: Iterable[Any], what: str, options: Options, notes: Notes) -> Any:
    """The one aspect that decides, where verdicts cannot be weighed; see `deciding`.

    Raises:
        DataError: as `deciding`, or the user names several, or one whose weight is not above 0.
    """
    chosen = deciding(keys, what, options, notes)
    if len(chosen) > 1 or min(chosen.values()) <= 0:
        raise DataError(
            f"{what} holds verdicts, which have no weights; name one of its aspects in ingest.aspects, such "
            f"as {{{next(iter(chosen))}: 1}}"
        )
    return next(iter(chosen))


def say_people(keys: Iterable[Any], what: str, notes: Notes) -> None:
    """Say that keys are read as people, where nothing in their names says so."""
    told = [str(key) for key in keys]
    if not any(set(words(key)) & PEOPLE or any(map(str.isdigit, key)) or "@" in key for key in told):
        notes.say(
            f"{what}: its keys, such as {notes.first(('people', what), told[0])!r}, are read as people; "
            "where they are aspects, name those that count in ingest.aspects"
        )


def weight_of(ratings: Mapping[Any, Any], chosen: Mapping[Any, float], column: str) -> float | None:
    """The weighted sum of an answer's ratings; None where one that counts is not there."""
    if not all(filled(ratings.get(key)) for key in chosen):
        return None
    return sum(weight * number_of(ratings[key], column) for key, weight in chosen.items())
