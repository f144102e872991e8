"""What the columns of a table are that people made by hand: the prompt, the answers, who said what of them.

Columns of one kind differ in one word: `Response A` and `Response B`, `rank_1` to `rank_4`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from rlhf.data.layouts.layout import Options, is_a
from rlhf.data.layouts.values import these, words

_SERIES = (
    tuple("abcdefghijkl"),
    tuple(map(str, range(1, 13))),
    tuple(map(str, range(12))),
    ("left", "right"),
    ("first", "second", "third", "fourth"),
    ("one", "two", "three", "four"),
)
_MARKS = frozenset(chain.from_iterable(_SERIES))
_PROMPTS = these(
    "prompt question instruction query post article input context history document conversation messages"
)
VERDICTS = these(
    "preference preferred winner choice verdict label better best chosen selected selection "
    "judgement judgment vote pick picked favorite favourite decision ranking order preferences "
    "verdicts votes labels choices winners rankings annotations"
)
PEOPLE = these("annotator rater labeler judge worker reviewer evaluator person expert user")
_NUMBERS = these("rank ranking score rating rate points stars grade quality reward")
_MODELS = these("model policy system engine generator")
_OVERALL = these("overall general final human which is response answer the")
_LISTS = frozenset(f"{who}{end}" for who in PEOPLE for end in ("s", "_ids"))
# Columns that say that the answers are elsewhere.
_OTHERS = frozenset(("rejected", "completions"))


@dataclass(frozen=True)
class Plan:
    """What the columns of a table are.

    Attributes:
        prompt: the column of the prompt.
        answers: the columns of the answers, in order.
        marks: the word of each that tells it from the others.
        models: the columns that name who wrote each answer; none where there are none.
        verdicts: the columns with a verdict; several where there is one a person.
        people: the columns that name who gave each verdict, or one that lists them.
        numbers: the columns of a rank or score an answer.
        flags: a column an answer that says whether it won.
        unsure: verdicts by aspects, of which nothing says which counts.
    """

    prompt: str
    answers: tuple[str, ...]
    marks: tuple[str, ...]
    models: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()

    @property
    def columns(self) -> set[str]:
        """All columns that are read."""
        several = (*self.answers, *self.models, *self.verdicts, *self.people, *self.numbers, *self.flags)
        return {self.prompt, *several}


def plan_of(columns: Mapping[str, str], options: Options | None = None) -> Plan | None:
    """The plan of a table with these columns; None where it is none.

    Args:
        columns: name -> kind.
        options: the columns that the user names.
    """
    options = options or Options()
    prompt = options.prompt or _prompt(columns)
    if prompt is None or columns.keys() & _OTHERS:
        return None
    sets: dict[str, list[tuple[str, ...]]] = {}  # what the columns of a family are -> families
    marks_of: dict[tuple[str, ...], tuple[str, ...]] = {}
    for names, marks, base in _families(columns):
        marks_of[names] = marks
        sets.setdefault(_what(names, base, columns, prompt), []).append(names)
    answers = max(sets.get("answers", [()]), key=len)
    models = next(iter(sets.get("models", [()])))
    if not answers and all(is_a(columns, name, "text") for name in models):
        answers, models = models, ()
    marks = marks_of.get(answers, ())
    if options.outputs:
        answers = tuple(options.outputs)
        marks = tuple(str(number) for number in range(1, len(answers) + 1))
    numbers, flags = (next(iter(sets.get(what, [()]))) for what in ("numbers", "flags"))
    numbers = numbers if len(numbers) == len(answers) else ()
    verdicts, people = next(iter(sets.get("verdicts", [()]))), next(iter(sets.get("people", [()])))
    if people and not verdicts:
        verdicts, people = people, ()
    taken = {prompt, *answers, *models, *numbers, *flags, *people}
    unsure: tuple[str, ...] = ()
    if not verdicts:
        verdicts = tuple(name for name in columns if name not in taken and _is_verdict(name, columns))
        verdicts, unsure = _one_of(verdicts, options)
    people = people or tuple(name for name in columns if name in _LISTS)[:1]
    if len(answers) < 2 or not (verdicts or numbers or flags):
        return None
    return Plan(prompt, answers, marks, models, verdicts, people, numbers, flags, unsure)


def _one_of(verdicts: tuple[str, ...], options: Options) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The verdict that counts of several: that of the aspect that the user names, else the overall one. The
    first will do until its rows are read; the second value is all of them where nothing says which counts."""
    for told in (
        [name for name in verdicts if name in options.aspects],
        [name for name in verdicts if set(words(name)) <= VERDICTS],
        [name for name in verdicts if set(words(name)) <= VERDICTS | _OVERALL],
        verdicts,
    ):
        if len(told) == 1:
            return tuple(told), ()
    return verdicts[:1], verdicts[1:] and verdicts


def _families(columns: Mapping[str, str]) -> list[tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]]:
    """Columns that differ in one word of a series: their names, these words, and the words they share."""
    groups: dict[tuple[Any, ...], dict[str, str]] = {}
    for name in columns:
        parts = words(name)
        for place, part in enumerate(parts):
            if part in _MARKS:
                groups.setdefault((parts[:place], parts[place + 1 :]), {})[part] = name
    families = []
    for (front, behind), named in groups.items():
        for series in _SERIES:
            if len(named) >= 2 and tuple(sorted(named, key=_place_in(series))) == series[: len(named)]:
                marks = series[: len(named)]
                families.append((tuple(named[mark] for mark in marks), marks, frozenset(front + behind)))
                break
    return families


def _place_in(series: Sequence[str]) -> Any:
    return lambda mark: series.index(mark) if mark in series else len(series)


def _what(names: Sequence[str], base: frozenset[str], columns: Mapping[str, str], prompt: str) -> str:
    """What the columns of a family are, by the words they share and what they hold."""
    texts = all(is_a(columns, name, "text") for name in names)
    numbers = all(columns[name] in ("number", "numeral", "empty") for name in names)
    if base & _NUMBERS:
        return "numbers"
    if base & {"winner", "win", "wins"}:
        return "flags"
    if base & PEOPLE:
        return "people"
    if base & VERDICTS:
        return "verdicts"
    if base & _MODELS and base <= _MODELS | {"name", "id"}:
        return "models"
    if numbers:
        return "numbers"
    return "answers" if texts and prompt not in names else "other"


def _is_verdict(name: str, columns: Mapping[str, str]) -> bool:
    return bool(set(words(name)) & VERDICTS) and columns[name] not in ("empty", "messages", "answered")


def _prompt(columns: Mapping[str, str]) -> str | None:
    """The column of the prompt: a name that is just that, else the only one that has such a word."""
    texts = [name for name in columns if is_a(columns, name, "text|messages")]
    first = [name for name in texts if words(name) == ("prompt",)]
    exact = [name for name in texts if len(words(name)) == 1 and words(name)[0] in _PROMPTS]
    asks = [name for name in exact if words(name)[0] in ("question", "instruction", "query")]
    near = [name for name in texts if set(words(name)) & _PROMPTS and not set(words(name)) & _MARKS]
    return next((names[0] for names in (first, asks, exact, near) if len(names) == 1), None)
