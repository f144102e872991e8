"""Tables that people make by hand: a prompt, a column for each answer, and a verdict, ranks or scores.

The columns of the answers differ in one word: `Response A` and `Response B`, `answer_1` to `answer_4`. The
verdict is a column of its own, one a person (`annotator_1`, `annotator_2`), or a list; ranks and scores are
columns that differ in the same word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.kinds import kinds
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, is_a, text_of
from rlhf.data.layouts.turns import asked
from rlhf.data.layouts.values import COMMON, common, comparison, filled, number_of, these, who_is, words
from rlhf.data.layouts.verdicts import Answers, direction, plain, ranked, verdict

LOOK = 10_000  # rows in which the values of verdicts are looked at before the first is read
_SERIES = (
    tuple("abcdefghijkl"),
    tuple(map(str, range(1, 13))),
    tuple(map(str, range(12))),
    ("left", "right"),
    ("first", "second", "third", "fourth"),
    ("one", "two", "three", "four"),
)
_MARKS = frozenset(chain.from_iterable(_SERIES))
_PROMPTS = these("prompt question instruction query post article input context history document conversation")
_VERDICTS = these(
    "preference preferred winner choice verdict label better best chosen selected selection "
    "judgement judgment vote pick picked favorite favourite decision ranking order preferences "
    "verdicts votes labels choices winners rankings annotations"
)
_PEOPLE = these("annotator rater labeler judge worker reviewer evaluator person expert user")
_NUMBERS = these("rank ranking score rating rate points stars grade quality reward")
_MODELS = these("model policy system engine generator")
_LISTS_OF_PEOPLE = frozenset(f"{who}{end}" for who in _PEOPLE for end in ("s", "_ids"))
_NOTES = dict.fromkeys(("comment", "comments", "note", "notes", "reason", "rationale", "explanation"), "note")
# Columns that say that the answers are elsewhere.
_OTHERS = frozenset(("rejected", "messages", "completions"))


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
    """

    prompt: str
    answers: tuple[str, ...]
    marks: tuple[str, ...]
    models: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

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
    if not verdicts:
        verdicts = tuple(name for name in columns if name not in taken and _is_verdict(name, columns))[:1]
    people = people or tuple(name for name in columns if name in _LISTS_OF_PEOPLE)[:1]
    if len(answers) < 2 or not (verdicts or numbers or flags):
        return None
    return Plan(prompt, answers, marks, models, verdicts, people, numbers, flags)


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
    if base & _PEOPLE:
        return "people"
    if base & _VERDICTS:
        return "verdicts"
    if base & _MODELS and base <= _MODELS | {"name", "id"}:
        return "models"
    if numbers:
        return "numbers"
    return "answers" if texts and prompt not in names else "other"


def _is_verdict(name: str, columns: Mapping[str, str]) -> bool:
    return bool(set(words(name)) & _VERDICTS) and columns[name] not in ("empty", "messages", "answered")


def _prompt(columns: Mapping[str, str]) -> str | None:
    """The column of the prompt: a name that is just that, else the only one that has such a word."""
    texts = [name for name in columns if is_a(columns, name, "text|messages")]
    first = [name for name in texts if words(name) == ("prompt",)]
    exact = [name for name in texts if len(words(name)) == 1 and words(name)[0] in _PROMPTS]
    near = [name for name in texts if set(words(name)) & _PROMPTS and not set(words(name)) & _MARKS]
    return next((names[0] for names in (first, exact, near) if len(names) == 1), None)


class Table:
    """What the first rows of a file say of all of them.

    Args:
        first: these rows.
    """

    def __init__(self, first: Sequence[Record]) -> None:
        self._first = first
        self._known: tuple[Options, Plan, frozenset[str]] | None = None

    def plan(self, options: Options) -> tuple[Plan, frozenset[str]]:
        """The plan, and the values that verdicts have.

        Raises:
            DataError: the columns are not those of a table.
        """
        if self._known is None or self._known[0] is not options:
            columns = kinds(self._first)
            plan = plan_of(columns, options)
            if plan is None:
                raise DataError(
                    "no prompt, two answers and a verdict among the columns; name them in ingest.prompt, "
                    "ingest.outputs or ingest.columns"
                )
            values = (record.columns.get(name) for name in plan.verdicts for record in self._first)
            seen = {plain(v) for value in values for v in _each(value) if filled(v)}
            self._known = (options, plan, frozenset(seen))
        return self._known[1:]


def _each(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return [v for v in value if not isinstance(v, (list, Mapping))] if isinstance(value, list) else [value]


class Row(list[Record]):
    """A row with what is known of its table."""

    def __init__(self, record: Record, table: Table) -> None:
        super().__init__([record])
        self.table = table


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    records = iter(records)
    first = list(islice(records, LOOK))
    table = Table(first)
    for record in chain(first, records):
        yield Row(record, table)


def _fits(columns: Mapping[str, str]) -> bool:
    return plan_of(columns) is not None


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    table = records.table if isinstance(records, Row) else Table(records)
    plan, seen = table.plan(options)
    for record in records:
        columns = record.columns
        texts = {name: columns.get(name) for name in plan.answers}
        if sum(map(filled, texts.values())) < 2:
            notes.pass_over("rows with fewer than two answers", record.where)
            continue
        # A table for at most K answers leaves the cells of those that a row lacks empty.
        there = [name for name in plan.answers if filled(texts[name])]
        places = [plan.answers.index(name) for name in there]
        models = [str(columns.get(plan.models[place]) or "") for place in places] if plan.models else []
        prompt = asked(columns.get(plan.prompt), record.where, notes, columns.get("system"), plan.prompt)
        fixed = common({_NOTES.get(k.lower(), k): v for k, v in columns.items() if k not in plan.columns})
        fixed |= {"policies": models} if any(models) else {}
        fixed |= _extra(columns, plan, options, notes)
        answers = Answers(there, [plan.marks[place] for place in places], models, seen)
        completions = [text_of(texts[name], name) for name in there]
        scores = _scores(columns, plan, places, options, notes)
        judged = False
        for who, name, value in _verdicts(columns, plan):
            if not filled(value):
                continue
            told = verdict(value, name, answers, options)
            judged = True
            if told.ranking is None:
                notes.pass_over("verdicts that ingest.words skips", record.where, value)
                continue
            row = {**fixed, "both_bad": told.both_bad, "note": fixed.get("note") or told.note}
            row |= {"labeler_id": who} if who else {}
            yield comparison(prompt, completions, ranking=told.ranking, scores=scores.get("scores"), **row)
        if not judged and scores:
            judged = True
            yield comparison(prompt, completions, **scores, **fixed)
        if not judged:
            notes.pass_over("rows without a verdict", record.where)


def _extra(columns: Mapping[str, Any], plan: Plan, options: Options, notes: Notes) -> dict[str, Any]:
    """The columns that the plan does not read: named, or kept where the user says so."""
    read = plan.columns | COMMON | {"system"}
    read |= {name for name in columns if name.lower() in _NOTES or (plan.flags and "tie" in words(name))}
    beside = [name for name in columns if name not in read]
    kept = {name: columns[name] for name in beside if name in options.keep or "*" in options.keep}
    left = [name for name in beside if name not in kept]
    if left:
        notes.say(f"columns {', '.join(map(ascii, left))} not read; ingest.keep names the columns to keep")
    kept = {name: value for name, value in kept.items() if filled(value)}
    return {"extra": kept} if kept else {}


def _verdicts(columns: Mapping[str, Any], plan: Plan) -> Iterator[tuple[str | None, str, Any]]:
    """Who, the column, and what it says, for each verdict of a row."""
    if plan.flags:
        won = [name for name in plan.flags if _yes(columns.get(name))]
        ties = [n for n in columns if set(words(n)) & {"tie", "ties"} and _yes(columns[n])]
        if len(won) == 1:
            yield None, won[0], [1 if name == won[0] else 2 for name in plan.flags]
        elif ties and not won:
            yield None, ties[0], "tie"
        return
    if len(plan.verdicts) > 1:
        for place, name in enumerate(plan.verdicts):
            who = columns.get(plan.people[place]) if len(plan.people) == len(plan.verdicts) else name
            yield who_is(who), name, columns.get(name)
        return
    for name in plan.verdicts:
        value = columns.get(name)
        people = columns.get(plan.people[0]) if plan.people else None
        if isinstance(value, Mapping):
            yield from ((str(who), name, told) for who, told in value.items())
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            yield from (_told(item, name, number) for number, item in enumerate(value, start=1))
        elif isinstance(value, list) and _several(value, name, people, plan):
            names = people if isinstance(people, list) else [f"annotator-{i + 1}" for i in range(len(value))]
            if len(names) != len(value):
                raise DataError(f"{plan.people[0]} lists {len(names)} people, {name} {len(value)} verdicts")
            yield from ((who_is(who), name, told) for who, told in zip(names, value, strict=True))
        else:
            yield None, name, value


def _several(value: list[Any], name: str, people: Any, plan: Plan) -> bool:
    """Whether a list holds verdicts of several people, and not the ranks that a single person gave."""
    if isinstance(people, list) or any(isinstance(item, list) for item in value):
        return True
    parts = set(words(name))
    return not parts & {"rank", "ranks", "ranking", "order"}


def _told(item: Mapping[str, Any], column: str, number: int) -> tuple[str | None, str, Any]:
    """A verdict that is an object: who, and what."""
    who = next((v for k, v in item.items() if set(words(k)) & _PEOPLE), f"annotator-{number}")
    said = next((k for k in item if set(words(k)) & (_VERDICTS | {"rank", "ranks", "value", "answer"})), None)
    if said is None:
        raise DataError(f"column {column!r} holds {', '.join(item)}, and none of them is a verdict")
    return who_is(who), column, item[said]


def _yes(value: Any) -> bool:
    return plain(value) in ("1", "true", "yes", "x") if filled(value) else False


def _scores(
    columns: Mapping[str, Any], plan: Plan, places: Sequence[int], options: Options, notes: Notes
) -> dict[str, Any]:
    """The ranking by columns of numbers, and the scores where higher is better; nothing for empty cells."""
    if not plan.numbers:
        return {}
    names = [plan.numbers[place] for place in places]
    cells = [columns.get(name) for name in names]
    values = [
        number_of(cell, name) if filled(cell) else None for cell, name in zip(cells, names, strict=True)
    ]
    if len(values) - values.count(None) < 2:
        return {}
    better = direction(names[0], options)
    if not plan.verdicts and not plan.flags:
        notes.say(
            f"{', '.join(plan.numbers)}: the {better} number is the better, equal ones tie "
            "(ingest.direction says otherwise)"
        )
    scores = {"scores": values} if better == "higher" and None not in values else {}
    return {"ranking": ranked(values, better)} | scores


LAYOUT = Layout(
    name="table",
    about="a prompt, a column for each answer, and a verdict, ranks or scores: tables made by hand",
    columns="`prompt`, `Response A`, `Response B`, `preference` (A, B, tie, both bad, left, right, 1, 2, "
    "first, a model's name); `annotator_1`, `annotator_2`; `rank_1` to `rank_4`; `score_a`, `score_b`",
    fits=_fits,
    rows=_rows,
    groups=_groups,
    general=True,
)
