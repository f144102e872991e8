"""A prompt, a list of answers, and lists of ranks or scores beside it, of a single person or of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.answers import LISTS
from rlhf.data.layouts.aspects import are_aspects, deciding, say_people, weight_of
from rlhf.data.layouts.instructions import INPUTS, PROMPTS
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, is_a, text_of
from rlhf.data.layouts.pairs import prompted
from rlhf.data.layouts.values import COMMON, common, comparison, filled, number_of, who_is
from rlhf.data.layouts.verdicts import direction, ranked

_JUDGED = ("ranks", "ranking", "rankings", "scores", "ratings", "rewards", "labels", "annotations")
_PEOPLE = ("annotators", "annotator_ids", "labelers", "labeler_ids", "workers", "raters", "judges")
_MODELS = ("policies", "models", "model_names")


def _lists(columns: Mapping[str, str]) -> list[str]:
    return [name for name in LISTS if is_a(columns, name, "texts")]


def _judged(columns: Mapping[str, str]) -> list[str]:
    return [name for name in _JUDGED if is_a(columns, name, "numbers|numerals|list|object|objects")]


def _fits(columns: Mapping[str, str]) -> bool:
    asks = [name for name in PROMPTS if is_a(columns, name, "text|messages")]
    if {"completions", "ranking"} <= columns.keys():
        return False  # rows of the contract
    return bool(asks) and len(_lists(columns)) == 1 and len(_judged(columns)) == 1


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        texts = next(columns[name] for name in LISTS if isinstance(columns.get(name), list) and columns[name])
        name = next((name for name in PROMPTS if filled(columns.get(name))), "prompt")
        column = next((name for name in _JUDGED if columns.get(name) not in (None, [])), None)
        if column is None:
            notes.pass_over("prompts whose answers nobody judged", record.where)
            continue
        prompt = prompted(columns.get(name), record, notes, columns.get("system"), name)
        better = direction(column, options)
        notes.say(
            f"{column}: the {better} number is the better, equal ones tie (ingest.direction says otherwise)"
        )
        models = next((columns[m] for m in _MODELS if isinstance(columns.get(m), list)), None)
        for who, values in _people(columns, column, options, notes):
            if not isinstance(values, list) or len(values) != len(texts):
                raise DataError(
                    f"{column} must have a number for each of the {len(texts)} answers; it is "
                    f"{ascii(values)[:60]}"
                )
            numbers = [number_of(value, column) if filled(value) else None for value in values]
            kept = common(columns) | ({"labeler_id": who} if who else {})
            yield comparison(
                prompt,
                [text_of(text, "answers") for text in texts],
                ranking=ranked(numbers, better),
                scores=numbers if better == "higher" else None,
                policies=[str(model) for model in models] if models else None,
                **kept,
            )


def _people(
    columns: Mapping[str, Any], column: str, options: Options, notes: Notes
) -> Iterator[tuple[str | None, Any]]:
    """Who, and their numbers."""
    values = columns[column]
    what = f"column {column!r}"
    if isinstance(values, Mapping):
        if are_aspects(values, options):
            yield None, _weighed(values, deciding(values, what, options, notes), column)
            return
        say_people(values, what, notes)
        for who, told in values.items():
            if isinstance(told, Mapping):
                told = _weighed(told, deciding(told, what, options, notes), column)
            yield str(who), told
        return
    if values and all(isinstance(value, Mapping) for value in values):  # an object of aspects an answer
        chosen = deciding(dict.fromkeys(key for value in values for key in value), what, options, notes)
        yield None, [weight_of(value, chosen, column) for value in values]
        return
    if not any(isinstance(value, list) for value in values):
        yield None, values
        return
    people = next((columns[name] for name in _PEOPLE if isinstance(columns.get(name), list)), None)
    if people is not None and len(people) != len(values):
        raise DataError(f"{column} is of {len(values)} people, but there are {len(people)} names of them")
    for number, told in enumerate(values):
        yield who_is(people[number]) if people else f"annotator-{number + 1}", told


def _weighed(lists: Mapping[Any, Any], chosen: Mapping[Any, float], column: str) -> list[float | None]:
    """A number an answer, of lists by aspect."""
    wanted = [lists[key] for key in chosen]
    if any(not isinstance(values, list) or len(values) != len(wanted[0]) for values in wanted):
        raise DataError(f"{column} must be a list by aspect, with a number an answer: {ascii(wanted)[:60]}")
    rows = [dict(zip(chosen, numbers, strict=True)) for numbers in zip(*wanted, strict=True)]
    return [weight_of(row, chosen, column) for row in rows]


LAYOUT = Layout(
    name="parallel-lists",
    about="a prompt, a list of answers, and a list of ranks or scores; or a list for each person",
    columns="`prompt`, `responses[]`, and `ranks[]`, `scores[]` or `ratings[]`; or `rankings[[]]`, "
    "`annotators[]`",
    fits=_fits,
    rows=_rows,
    own=COMMON | {*PROMPTS, *INPUTS, *LISTS, *_JUDGED, *_PEOPLE, *_MODELS, "system"},
)
