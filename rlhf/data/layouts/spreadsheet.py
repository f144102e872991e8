"""Tables that people make by hand: a prompt, a column for each answer, and a verdict, ranks or scores.

The columns of the answers differ in one word: `Response A` and `Response B`, `answer_1` to `answer_4`. The
verdict is a column of its own, one a person (`annotator_1`, `annotator_2`), or a list; ranks and scores are
columns that differ in the same word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.aspects import NAMES, are_aspects, deciding_one, say_people
from rlhf.data.layouts.instructions import INPUTS, QUESTIONS, SYSTEMS, with_context
from rlhf.data.layouts.kinds import kinds
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, text_of
from rlhf.data.layouts.table_plan import VERDICTS, Plan, plan_of
from rlhf.data.layouts.turns import asked
from rlhf.data.layouts.values import (
    COMMON,
    PEOPLE,
    common,
    comparison,
    filled,
    is_numeral,
    number_of,
    object_of,
    who_is,
    words,
)
from rlhf.data.layouts.verdict_words import Answers, place_of, plain
from rlhf.data.layouts.verdicts import Verdict, direction, ranked, verdict

ORDERS = frozenset(("rank", "ranks", "ranking", "order"))  # what lists of one person's are called
LOOK = 10_000  # rows in which the values of verdicts are looked at before the first is read
_NOTES = dict.fromkeys(("comment", "comments", "note", "notes", "reason", "rationale", "explanation"), "note")


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
            if plan.unsure:
                raise DataError(
                    f"columns {', '.join(map(repr, plan.unsure))} each say which answer is better; say which "
                    f"counts in ingest.aspects, such as {{{plan.unsure[0]}: 1}}"
                )
            values = [record.columns.get(name) for name in plan.verdicts for record in self._first]
            seen = {plain(v) for value in values for v in _each(value) if filled(v)}
            _orders_are_told(values, plan)
            self._known = (options, plan, frozenset(seen))
        return self._known[1:]


def _each(value: Any) -> list[Any]:
    """The single verdicts of a cell."""
    if isinstance(value, Mapping):
        return [v for inside in value.values() for v in _each(inside)]
    return [v for v in value if not isinstance(v, (list, Mapping))] if isinstance(value, list) else [value]


def _orders_are_told(values: Sequence[Any], plan: Plan) -> None:
    """Refuse lists that all name each answer once, which may be an order or people who never agree."""
    lists = [value for value in values if filled(value) and value != []]
    name = plan.verdicts[0] if len(plan.verdicts) == 1 else ""
    if not lists or plan.people or not name or set(words(name)) & ORDERS:
        return
    answers = Answers(plan.answers, plan.marks)
    for value in lists:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            return
        if {place_of(item, answers) for item in value} != set(range(len(plan.answers))):
            return
    if all(len(value) == len(plan.answers) for value in lists):
        raise DataError(
            f"the lists of column {name!r} all name each answer once: where they are orders, the best first, "
            f"say ingest.columns: {{ranking: {name}}}; where they are people's verdicts, "
            f"{{annotator_1: {name}.0, annotator_2: {name}.1}}"
        )


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
        question = columns.get(plan.prompt)
        if options.prompt is None:
            beside = {name: value for name, value in columns.items() if name not in plan.columns}
            question = with_context(plan.prompt, question, beside, notes)
        prompt = asked(question, record.where, notes, _system(columns), plan.prompt)
        fixed = common({_known(k): v for k, v in columns.items() if k not in plan.columns})
        fixed |= {"policies": models} if any(models) else {}
        fixed |= _extra(columns, plan, options, notes)
        answers = Answers(there, [plan.marks[place] for place in places], models, seen, len(plan.answers))
        completions = [text_of(texts[name], name) for name in there]
        scores = _scores(columns, plan, places, options, notes)
        judged = False
        for who, name, value in _verdicts(columns, plan, answers, options, notes):
            if not filled(value):
                continue
            told = value if isinstance(value, Verdict) else verdict(value, name, answers, options)
            judged = True
            if told.ranking is None:
                notes.pass_over("verdicts that ingest.words skips", record.where, value)
                continue
            if told.both_bad:
                notes.say('"neither" and "both bad" are ties, marked as both bad')
            if len(there) > 2 and told.ranking.count(2) == len(there) - 1:
                notes.say("an answer that is chosen is better than the others, which tie")
            row = {**fixed, "both_bad": told.both_bad, "note": fixed.get("note") or told.note}
            row |= {"labeler_id": who} if who else {}
            yield comparison(
                prompt, completions, ranking=told.ranking, scores=told.scores or scores.get("scores"), **row
            )
        if not judged and scores:
            judged = True
            yield comparison(prompt, completions, **scores, **fixed)
        if not judged:
            notes.pass_over("rows without a verdict", record.where)


def _system(columns: Mapping[str, Any]) -> Any:
    """The system's words, where a column has them."""
    return next((value for name, value in columns.items() if name.lower() in SYSTEMS and filled(value)), None)


def _known(name: str) -> str:
    """A column as the contract calls it, in any letters: `Annotator` and `Worker ID` name people, too."""
    name = _NOTES.get(name.lower(), name)
    same = "_".join(words(name))
    return same if same in COMMON else name


def _extra(columns: Mapping[str, Any], plan: Plan, options: Options, notes: Notes) -> dict[str, Any]:
    """The columns that the plan does not read: named, or kept where the user says so."""
    read = plan.columns | COMMON | {name for name in columns if name.lower() in SYSTEMS}
    if options.prompt is None and plan.prompt.lower() in QUESTIONS:
        read |= {name for name in columns if name.lower() in INPUTS}
    read |= {name for name in columns if _known(name) in COMMON or (plan.flags and "tie" in words(name))}
    beside = [name for name in columns if name not in read]
    kept = {name: columns[name] for name in beside if name in options.keep or "*" in options.keep}
    left = [name for name in beside if name not in kept]
    if left:
        notes.say(f"columns {', '.join(map(ascii, left))} not read; ingest.keep names the columns to keep")
    kept = {name: value for name, value in kept.items() if filled(value)}
    return {"extra": kept} if kept else {}


def _verdicts(
    columns: Mapping[str, Any], plan: Plan, answers: Answers, options: Options, notes: Notes
) -> Iterator[tuple[str | None, str, Any]]:
    """Who, the column, and what it says, for each verdict of a row."""
    if plan.flags:
        won = [name for name in plan.flags if _yes(columns.get(name))]
        ties = [n for n in columns if set(words(n)) & {"tie", "ties"} and _yes(columns[n])]
        if len(won) == 1:
            yield None, won[0], [1 if name == won[0] else 2 for name in plan.flags]
        elif ties and not won:
            yield None, ties[0], "tie"
        return
    for place, name in enumerate(plan.verdicts):
        who: Any = None
        if len(plan.verdicts) > 1:
            who = columns.get(plan.people[place]) if len(plan.people) == len(plan.verdicts) else name
        value = object_of(columns.get(name)) or columns.get(name)
        people = columns.get(plan.people[0]) if plan.people and len(plan.verdicts) == 1 else None
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            items = _counting(value, name, options, notes)
            for number, item in enumerate(items, start=1):
                said_by, said = _told(item, name, f"annotator-{number}" if len(items) > 1 else None)
                for person, told in _by_key(said, name, said_by, answers, options, notes):
                    yield person, name, told
        elif isinstance(value, list) and _several(value, name, people):
            names = people if isinstance(people, list) else [f"annotator-{i + 1}" for i in range(len(value))]
            if len(names) != len(value):
                raise DataError(f"{plan.people[0]} lists {len(names)} people, {name} {len(value)} verdicts")
            yield from ((who_is(who), name, told) for who, told in zip(names, value, strict=True))
        else:
            for person, told in _by_key(value, name, who_is(who), answers, options, notes):
                yield person, name, told


def _by_key(
    value: Any, column: str, who: str | None, answers: Answers, options: Options, notes: Notes
) -> Iterator[tuple[str | None, Any]]:
    """Who, and a verdict, of an object: its keys are the answers, or aspects, or people."""
    if not isinstance(value, Mapping) or not value:
        yield who, value
        return
    places = {place_of(key, answers): told for key, told in value.items()}
    if None not in places and len(places) == len(value) > 1 and all(map(is_numeral, value.values())):
        numbers = [places.get(place) for place in range(len(answers.names))]
        numbers = [number_of(number, column) if filled(number) else None for number in numbers]
        better = direction(column, options)
        notes.say(f"{column}: the {better} number is the better (ingest.direction says otherwise)")
        scores = numbers if better == "higher" and None not in numbers else None
        yield who, Verdict(ranked(numbers, better), scores=scores)
    elif are_aspects(value, options):
        name = deciding_one(value, f"column {column!r}", options, notes)
        yield from _by_key(value[name], column, who, answers, options, notes)
    else:
        say_people(value, f"column {column!r}", notes)
        for person, told in value.items():
            yield from _by_key(told, column, str(person), answers, options, notes)


def _counting(
    items: Sequence[Mapping[str, Any]], column: str, options: Options, notes: Notes
) -> Sequence[Mapping[str, Any]]:
    """The objects of a list that are about the aspect that counts; all of them where none names an aspect."""
    key = next((key for key in items[0] if words(key) and words(key)[-1] in NAMES), None)
    if key is None or not all(key in item for item in items):
        return items
    name = deciding_one(dict.fromkeys(item[key] for item in items), f"column {column!r}", options, notes)
    return [item for item in items if item[key] == name]


def _several(value: list[Any], name: str, people: Any) -> bool:
    """Whether a list holds verdicts of several people, and not the ranks that a single person gave."""
    if isinstance(people, list) or any(isinstance(item, list) for item in value):
        return True
    return not set(words(name)) & ORDERS


def _told(item: Mapping[str, Any], column: str, unnamed: str | None) -> tuple[str | None, Any]:
    """A verdict that is an object: who, and what."""
    who = next((v for k, v in item.items() if set(words(k)) & PEOPLE), unnamed)
    said = next((k for k in item if set(words(k)) & (VERDICTS | {"rank", "ranks", "value", "answer"})), None)
    if said is None:
        raise DataError(f"column {column!r} holds {', '.join(item)}, and none of them is a verdict")
    return who_is(who), item[said]


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
