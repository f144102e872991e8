"""Values that layouts share: numbers, labelers, the rows of comparisons made of ranks or scores."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.formats.json_files import value_of
from rlhf.data.layouts.layout import Item, Notes, Options, Record
from rlhf.data.rankings import dense_ranks

# Names of the columns that say who judged, and why.
LABELERS = (
    "labeler_id",
    "labeler",
    "annotator_id",
    "annotator",
    "worker_id",
    "worker",
    "rater_id",
    "rater",
    "judge",
    "judge_id",
)
_KEPT = ("labeler_group", "strength", "seconds", "guideline_version", "split", "note", "both_bad")
MISSING = ("nan", "NaN", "<NA>", "#N/A")  # how pandas and spreadsheets write that nothing is there
COMMON = frozenset((*_KEPT, *LABELERS, "source"))


def these(names: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(names.split())


PEOPLE = these("annotator rater labeler judge worker reviewer evaluator person expert user")

# Names of columns and questions that ask for the worse answer, not for the better.
_CONTRARY = these(
    "not least less non worst worse lowest loser losing lost loses reject rejected rejects disprefer "
    "dispreferred unpreferred nonpreferred dislike disliked bad discarded"
)


def asks_for_worse(name: str) -> bool:
    """Whether a name asks for the worse answer: `least_preferred`, `Which is worst?`."""
    return bool(set(words(name)) & _CONTRARY)


def common(columns: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says about its label in the contract's words: labeler, strength, split, note, source."""
    row = {name: columns[name] for name in _KEPT if columns.get(name) is not None}
    who = next((columns[name] for name in LABELERS if columns.get(name) not in (None, "")), None)
    if who is not None:
        row["labeler_id"] = who_is(who)
    if isinstance(columns.get("source"), str):
        row["source"] = columns["source"]
    return row


def who_is(value: Any) -> str | None:
    """A labeler's id as a text: files have numbers, too."""
    if value is None or value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(f"the labeler is {ascii(value)[:40]}; write a text or a whole number")
    return str(value)


def number_of(value: Any, column: str) -> float:
    """A number, or the number that a text spells, as cells of a table do.

    Raises:
        DataError: it is none.
    """
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not isfinite(number):
        raise DataError(f"column {column!r} is {ascii(value)[:40]}; it must be a number")
    return number


def is_numeral(value: Any) -> bool:
    """Whether a value is a number, the text of one, or null for one that is not there."""
    if isinstance(value, str):
        return re.fullmatch(r"\s*[+-]?[0-9]+(\.[0-9]+)?\s*", value) is not None
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def object_of(value: Any) -> Mapping[str, Any] | None:
    """An object, also where a cell of a table spells it as JSON; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = value_of(value)
        except DataError:
            return None
    return value if isinstance(value, Mapping) else None


def filled(value: Any) -> bool:
    """Whether a cell says something."""
    if isinstance(value, str):
        return value != "" and value not in MISSING
    return value is not None and value == value  # NaN is an empty cell of pandas


def comparison(
    asked: Mapping[str, Any],
    completions: Sequence[str],
    ranking: Sequence[Any] | None = None,
    scores: Sequence[float | None] | None = None,
    **beside: Any,
) -> Item:
    """A row of the contract comparison.

    Args:
        asked: its prompt and messages.
        completions: the K answers.
        ranking: K numbers, the smallest best; None ranks by the scores.
        scores: K numbers, the highest best.
        beside: other columns; those that are None are left out, and `extra` is written as JSON.
    """
    if ranking is None:
        ranking = [None if score is None else -score for score in scores or ()]
    row = {"completions": list(completions), "ranking": dense_ranks(ranking)}
    if scores is not None and None not in scores:
        row["scores"] = list(scores)
    if "extra" in beside:
        beside["extra"] = as_extra(beside["extra"]) if beside["extra"] else None
    return Item("comparisons", {**asked, **row, **{k: v for k, v in beside.items() if v is not None}})


def as_extra(kept: Mapping[str, Any]) -> str:
    """What a row keeps in `extra`, as JSON."""
    return json.dumps(kept, ensure_ascii=False, sort_keys=True, default=str)


def weighted(ratings: Mapping[str, Any], options: Options, default: str, notes: Notes) -> float | None:
    """One score of ratings by aspect: the weighted sum that the user names, or the layout's overall aspect.

    Args:
        ratings: aspect -> number.
        options: `aspects` are the weights.
        default: the aspect that counts where the user names none.
        notes: gets which aspect counts.

    Returns:
        The score, higher is better; None where an aspect that counts has no rating.

    Raises:
        DataError: an aspect that the ratings do not have.
    """
    weights = options.aspects or {default: 1.0}
    told = " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in weights.items())
    notes.say(
        f"ratings by aspect: {told} decides, higher is better (ingest.aspects says which aspects count)"
    )
    total = 0.0
    for aspect, weight in weights.items():
        if aspect not in ratings:
            raise DataError(
                f"no rating of {aspect!r}; there are {', '.join(map(str, ratings))}: name those that count "
                "in ingest.aspects"
            )
        if not filled(ratings[aspect]):
            return None
        total += weight * number_of(ratings[aspect], aspect)
    return total


def by_key(records: Iterable[Record], key: Any) -> Iterable[list[Record]]:
    """Records grouped by a key, wherever in the file they stand, in the order of each group's first."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record.columns), []).append(record)
    yield from groups.values()


def words(name: str) -> tuple[str, ...]:
    """The words of a column's name, in small letters: `Response A` and `response_a` have the same."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[0-9])(?=[A-Za-z])", " ", name)
    return tuple(re.findall(r"[a-z]+|[0-9]+", name.lower()))
