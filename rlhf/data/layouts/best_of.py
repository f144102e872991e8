"""A prompt, a list of answers, and which of them is the best: its index, its letter or its text.

Whether an index counts from 0 or from 1 is told by the values: 0 is never among those that count from 1, and
the number of answers never among those that count from 0. Where neither is met, the name has to say it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.answers import LISTS
from rlhf.data.layouts.instructions import INPUTS, PROMPTS
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, UnknownWords, is_a, text_of
from rlhf.data.layouts.pairs import prompted
from rlhf.data.layouts.values import COMMON, common, comparison, filled, is_numeral, number_of, these, words
from rlhf.data.layouts.verdict_words import Answers, place_of, plain
from rlhf.data.layouts.verdicts import verdict

_LOOK = 10_000  # rows whose indices are looked at before the first is read
_BEST = these("best better preferred chosen winner winning selected accepted choice preference verdict pick")
_WORST = these("worst worse rejected least losing")
_ENDS = these("index idx id position number response answer output completion candidate reply option text")
_OFFERED = (*LISTS, "options", "samples", "choices", "texts")
_MODELS = ("policies", "models", "model_names")
_JUDGED = frozenset(f"{said}{end}" for said in _BEST | _WORST for end in ("", *(f"_{e}" for e in _ENDS)))


def _named(columns: Iterable[str], first: frozenset[str]) -> list[str]:
    told = [(name, words(name)) for name in columns]
    return [name for name, said in told if said and said[0] in first and set(said[1:]) <= _ENDS]


def _lists(columns: Mapping[str, str]) -> list[str]:
    return [name for name in _OFFERED if is_a(columns, name, "texts")]


def _fits(columns: Mapping[str, str]) -> bool:
    if {"chosen", "rejected"} <= columns.keys():
        return False  # both texts stand there
    best = [name for name in _named(columns, _BEST) if is_a(columns, name, "number|text")]
    asks = [name for name in PROMPTS if is_a(columns, name, "text|messages")]
    return bool(asks) and len(_lists(columns)) == 1 and len(best) == 1


class _Row(list[Record]):
    """A row, and from which number the indices of its file count; None where nothing tells."""

    def __init__(self, record: Record, start: int | None) -> None:
        super().__init__([record])
        self.start = start


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    records = iter(records)
    first = list(islice(records, _LOOK))
    start = _start(first)
    for record in chain(first, records):
        yield _Row(record, start)


def _start(records: Iterable[Record]) -> int | None:
    """From which number indices count.

    Raises:
        DataError: some count from 0, and others from 1.
    """
    zero = last = None
    for record in records:
        texts = _texts(record.columns)
        for name in (*_named(record.columns, _BEST), *_named(record.columns, _WORST)):
            value = record.columns[name]
            if filled(value) and is_numeral(value) and plain(value) not in map(plain, texts):
                zero = zero or (record.where if number_of(value, name) == 0 else None)
                last = last or (record.where if number_of(value, name) == len(texts) else None)
    if zero and last:
        raise DataError(
            f"indices count from 0 ({zero}) and from 1 ({last}, which names the last of its answers so); "
            "write all of them in one way"
        )
    return 0 if zero else 1 if last else None


def _texts(columns: Mapping[str, Any]) -> list[Any]:
    return next((columns[n] for n in _OFFERED if isinstance(columns.get(n), list) and columns[n]), [])


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    start = records.start if isinstance(records, _Row) else _start(records)
    for record in records:
        columns = record.columns
        texts = [text_of(text, "answers") for text in _texts(columns)]
        best, *_ = _named(columns, _BEST)
        worst = next(iter(_named(columns, _WORST)), None)
        if not filled(columns[best]) or len(texts) < 2:
            notes.pass_over("rows without a best answer", record.where)
            continue
        names = tuple(f"answer {number}" for number in range(1, len(texts) + 1))
        answers = Answers(names, tuple(map(str, range(1, len(texts) + 1))))
        place = _place(columns[best], best, texts, start, options, notes)
        if place is None:
            told = verdict(columns[best], best, answers, options)
            if told.ranking is None:
                notes.pass_over("rows that ingest.words skips", record.where, columns[best])
                continue
            ranking, bad = told.ranking, told.both_bad
        else:
            ranking, bad = [1 if number == place else 2 for number in range(len(texts))], None
        if worst is not None and filled(columns[worst]):
            last = _place(columns[worst], worst, texts, start, options, notes)
            last = place_of(columns[worst], answers) if last is None else last
            if last is None or ranking[last] == 1:
                raise DataError(f"column {worst!r} is {ascii(columns[worst])[:40]}, which is no other answer")
            ranking[last] = 3
        if len(texts) > 2 and ranking.count(2) > 1:
            notes.say("an answer that is chosen is better than the others, which tie")
        name = next((name for name in PROMPTS if filled(columns.get(name))), "prompt")
        models = next((columns[m] for m in _MODELS if isinstance(columns.get(m), list)), None)
        yield comparison(
            prompted(columns.get(name), record, notes, columns.get("system"), name),
            texts,
            ranking=ranking,
            both_bad=bad,
            policies=[str(model) for model in models] if models else None,
            **common(columns),
        )


def _place(
    value: Any, column: str, texts: Sequence[str], start: int | None, options: Options, notes: Notes
) -> int | None:
    """The place that an index or a text says; None for any other word.

    Raises:
        UnknownWords: an index of which nothing says what it counts.
        DataError: an index of no answer.
    """
    if isinstance(value, str) and texts.count(value) == 1:
        return texts.index(value)
    if not is_numeral(value) or plain(value) in map(plain, options.words):
        return None
    number = number_of(value, column)
    if start is None and number > 0 and {"index", "idx"} & set(words(column)):
        start = 0
    if start is None or not number.is_integer() or number < 0:
        raise UnknownWords({(column, plain(value)): 1})
    notes.say(f"column {column!r} counts the answers from {start}")
    if not 0 <= number - start < len(texts):
        raise DataError(
            f"column {column!r} is {plain(value)}, but there are {len(texts)} answers from {start}"
        )
    return int(number) - start


LAYOUT = Layout(
    name="best-of",
    about="a prompt, a list of answers, and which of them is the best: its index, letter or text",
    columns="`prompt`, `responses[]`, and `best`, `best_index`, `preferred_idx`, `chosen` ...; `worst`",
    fits=_fits,
    rows=_rows,
    groups=_groups,
    own=COMMON | {*PROMPTS, *INPUTS, *_OFFERED, *_MODELS, "system"} | _JUDGED,
)
