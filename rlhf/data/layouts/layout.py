"""What a layout is: how its columns are recognised, and what its records become.

A layout reads records (the rows of a file, as dicts) and gives items: rows of a contract, each with the table
that it belongs to. It guesses no direction and drops nothing without counting it in the notes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from rlhf.data.errors import DataError


class Record(NamedTuple):
    """One row of a file: where it stands (`votes.jsonl: row 3`) and its columns."""

    where: str
    columns: dict[str, Any]


class Item(NamedTuple):
    """One row of a contract. `table` is a name of `contracts.TABLES`, or `judgments`, or `edits`: what a
    person made of an output (`prompt, messages, output, text, labeler_id, policy, ...`), which is a
    demonstration, and better than the output that it was made of. `where` is the place of its record, which
    the reading fills in."""

    table: str
    row: dict[str, Any]
    where: str = ""


@dataclass(frozen=True)
class Options:
    """What the columns of a file do not say and the user does (`ingest.*` in params).

    Attributes:
        direction: whether the lower or the higher number is better, where the layout leaves it open.
        aspects: aspect -> weight, for ratings by aspect; empty takes the layout's own overall rating.
        words: value of an answer -> what it means: `first`, `second`, `tie`, `both_bad`, `skip`, or the name
            of an output's column; of a vote `up`, `down` or `skip`.
        prompt: the column that is the prompt, where several could be.
        outputs: the columns that are the outputs, in order, where others could be.
        edit: the question whose free text is an edit of the first output; without it such text is a note.
        keep: columns that no contract knows and that are kept in `extra`; `["*"]` keeps all of them.
    """

    direction: Literal["lower", "higher"] | None = None
    aspects: Mapping[str, float] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    prompt: str | None = None
    outputs: Sequence[str] = ()
    edit: str | None = None
    keep: Sequence[str] = ()


class UnknownWords(DataError):
    """Answers that mean nothing known. The driver gathers those of all records before it raises, so that the
    user sees every value that has to be mapped.

    Args:
        met: (question, value) -> how often.
    """

    def __init__(self, met: Mapping[tuple[str, str], int]) -> None:
        self.met = Counter(met)
        questions = list(dict.fromkeys(question for question, _ in self.met))
        values = [
            ", ".join(
                f"{ascii(value)[:40]} ({count})"
                for (asked, value), count in self.met.most_common(8)
                if asked == question
            )
            for question in questions
        ]
        told = "; ".join(f"question {q!r}: {v}" for q, v in zip(questions, values, strict=True) if v)
        super().__init__(self._line(told, next(iter(self.met))[1]))

    def _line(self, told: str, first: str) -> str:
        meanings = (
            ("second", "second"),
            ("bad", "both_bad"),
            ("neither", "both_bad"),
            ("same", "tie"),
            ("tie", "tie"),
        )
        meaning = next((meaning for word, meaning in meanings if word in first.casefold()), "first")
        question = next(iter(self.met))[0]
        return (
            f"answers that name no output: {told}; map them by ingest.words, such as {{{ascii(first)[:40]}: "
            f"{meaning}}} (first, second, tie, both_bad, skip, or an output), or say ingest.edit: "
            f"{question} where that text is an edit"
        )

    @property
    def numbers(self) -> bool:
        """Whether numbers are among the values."""
        return any(re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", value.strip()) for _, value in self.met)


class Notes:
    """What a person should see of a reading: what was understood, and what was passed over and how often."""

    def __init__(self) -> None:
        self._said: dict[str, None] = {}
        self._passed_over: Counter[str] = Counter()
        self._example: dict[str, str] = {}
        self._first: dict[Any, Any] = {}

    def first(self, what: Any, value: Any) -> Any:
        """The first value that was met of something that must be the same in all records."""
        return self._first.setdefault(what, value)

    def say(self, line: str) -> None:
        """Add a line, once."""
        self._said.setdefault(line)

    def pass_over(self, what: str, where: str, value: Any = None) -> None:
        """Count something that was not read.

        Args:
            what: such as `answers of question 'comment'`.
            where: the record, which becomes the example of the first.
            value: what stands there.
        """
        self._passed_over[what] += 1
        shown = "" if value is None else f" ({ascii(value)[:60]})"
        self._example.setdefault(what, f"{where}{shown}")

    @property
    def passed_over(self) -> Mapping[str, int]:
        """What was not read, and how often."""
        return self._passed_over

    def lines(self) -> list[str]:
        """All of it, for people."""
        counted = [
            f"passed over: {count} {what}, such as {self._example[what]}"
            for what, count in self._passed_over.items()
        ]
        return [*self._said, *counted]


Rows = Callable[[Sequence[Record], Options, Notes], Iterable[Item]]
Groups = Callable[[Iterable[Record]], Iterator[list[Record]]]


def alone(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Each record by itself: for layouts in which a record says all that it needs."""
    for record in records:
        yield [record]


@dataclass(frozen=True)
class Layout:
    """One layout.

    Attributes:
        name: what `ingest.layout` calls it.
        about: a sentence for people, and for the docs.
        columns: its columns as the docs show them.
        fits: whether columns (name -> kind, see `recognise.kinds`) are this layout's.
        rows: the items of one group of records. It raises DataError for a group that cannot be read; the line
            says what is wrong and how to mend it, and leaves the place to whoever reads the file.
        groups: which records belong together.
        own: the columns that `rows` reads or knowingly leaves out; others are named to the user and left out,
            or kept where `Options.keep` names them. None where the layout takes care of all columns itself.
        general: whether it is for what no other layout knows; it steps back where another fits, too.
        of_tool: whether its columns are those of one tool's export, which nothing else has; it goes before
            layouts that fit the fields of such a record, too.
    """

    name: str
    about: str
    columns: str
    fits: Callable[[Mapping[str, str]], bool]
    rows: Rows
    groups: Groups = alone
    own: frozenset[str] | None = None
    general: bool = False
    of_tool: bool = False


# Kinds that are more exactly what another kind says: a transcript is a text, too.
NARROWER = {
    "transcript": "text",
    "numeral": "text",
    "thumb": "text",
    "numerals": "texts",
    "answered": "messages",
}


def has(columns: Mapping[str, str], **wanted: str) -> bool:
    """Whether there are columns of these kinds; kinds that will do are parted by `|`, `any` takes each."""
    return all(is_a(columns, name, kinds) for name, kinds in wanted.items())


def is_a(columns: Mapping[str, str], name: str, kinds: str) -> bool:
    """Whether there is a column of this name and of a kind of these, or of a narrower kind."""
    if name not in columns:
        return False
    kind = columns[name]
    return kinds == "any" or bool({kind, NARROWER.get(kind, kind)} & set(kinds.split("|")))


def text_of(value: Any, column: str) -> str:
    """A text, or a line that says that the column has to be one.

    Raises:
        DataError: it is none.
    """
    if not isinstance(value, str):
        raise DataError(f"column {column!r} is {ascii(value)[:60]}; it must be a text")
    return value
