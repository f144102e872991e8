"""What the columns of a table are that people made by hand: the prompt, the answers, who said what of them.

Columns of one kind differ in one word: `Response A` and `Response B`, `rank_1` to `rank_4`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from rlhf.data.layouts.aspects import is_aspect
from rlhf.data.layouts.layout import Options, is_a
from rlhf.data.layouts.values import PEOPLE, asks_for_worse, these, words

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
_NUMBERS = these("rank ranking score rating rate points stars grade quality reward")
_PLURALS = these("ranks scores ratings rewards")
_MODELS = these("model policy system engine generator")
_ANSWERS = these("response answer output option candidate completion summary reply text generation")
_ABOUT = these("comment comments note notes reason rationale explanation feedback critique edit edited")
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
    base_of: dict[tuple[str, ...], frozenset[str]] = {(): frozenset()}
    for names, marks, base in _families(columns):
        marks_of[names], base_of[names] = marks, base
        sets.setdefault(_what(names, base, columns, prompt), []).append(names)
    # Two comments on the answers are a family of texts, too, and may stand before the answers.
    answers = max(
        sets.get("answers", [()]),
        key=lambda names: (bool(base_of[names] & _ANSWERS), not base_of[names] & _ABOUT, len(names)),
    )
    models = next(iter(sets.get("models", [()])))
    if not answers and all(is_a(columns, name, "text") for name in models):
        answers, models = models, ()
    marks = marks_of.get(answers, ())
    if options.outputs:
        answers = tuple(options.outputs)
        marks = tuple(str(number) for number in range(1, len(answers) + 1))
    flags = next(iter(sets.get("flags", [()])))
    verdicts, people = next(iter(sets.get("verdicts", [()]))), next(iter(sets.get("people", [()])))
    if people and not verdicts:
        verdicts, people = people, ()
    counted = [names for names in sets.get("numbers", ()) if len(names) == len(answers)]
    taken = {prompt, *answers, *models, *chain.from_iterable(counted), *flags, *people}
    unsure: tuple[str, ...] = ()
    if not verdicts:
        verdicts = tuple(name for name in columns if name not in taken and _is_verdict(name, columns))
        verdicts, unsure = _counting(verdicts, options)
    judged = bool(verdicts or flags)
    numbers, aspects = _numbers_of({names: base_of[names] for names in counted}, options, judged)
    unsure = unsure or aspects
    if len(answers) > 1 and not (judged or numbers or unsure):
        verdicts = tuple(name for name in columns if name not in taken and _is_aspect(name, columns))
        verdicts, unsure = _counting(verdicts, options)
    people = people or tuple(name for name in columns if name in _LISTS)[:1]
    if len(answers) < 2 or not (verdicts or numbers or flags):
        return None
    return Plan(prompt, answers, marks, models, verdicts, people, numbers, flags, unsure)


def _numbers_of(
    families: Mapping[tuple[str, ...], frozenset[str]], options: Options, judged: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The numbers of the answers that say which is better; the second value is what they are of where several
    do and nothing says which counts. Beside a verdict, numbers of which no name says so, such as lengths or
    ids, are none."""
    named = {names: base for names, base in families.items() if base & _NUMBERS}
    named = named or ({} if judged else dict(families))
    if not named:
        return (), ()
    stems = {
        names: "_".join(word for word in words(names[0]) if word in base) for names, base in named.items()
    }
    chosen = [names for names, stem in stems.items() if stem in options.aspects]
    overall = [names for names, base in named.items() if base <= _NUMBERS | _OVERALL]
    first = next(iter(chosen or overall or named))
    certain = bool(chosen or overall or judged or len(named) == 1)
    return first, () if certain else tuple(stems.values())


def _counting(verdicts: tuple[str, ...], options: Options) -> tuple[tuple[str, ...], tuple[str, ...]]:
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
    if any(map(asks_for_worse, names)):
        return "other"
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
    if asks_for_worse(name):
        return False
    said = VERDICTS | _NUMBERS | _PLURALS if columns[name] == "object" else VERDICTS
    return bool(set(words(name)) & said) and columns[name] not in ("empty", "messages", "answered")


def _is_aspect(name: str, columns: Mapping[str, str]) -> bool:
    return is_aspect(name) and is_a(columns, name, "text") and not set(words(name)) & _ABOUT


def _prompt(columns: Mapping[str, str]) -> str | None:
    """The column of the prompt: a name that is just that, else the only one that has such a word."""
    texts = [name for name in columns if is_a(columns, name, "text|messages")]
    first = [name for name in texts if words(name) == ("prompt",)]
    exact = [name for name in texts if len(words(name)) == 1 and words(name)[0] in _PROMPTS]
    asks = [name for name in exact if words(name)[0] in ("question", "instruction", "query")]
    near = [name for name in texts if set(words(name)) & _PROMPTS and not set(words(name)) & _MARKS]
    return next((names[0] for names in (first, asks, exact, near) if len(names) == 1), None)
