"""Pairs whose columns have other names that say which is the better, as `preferred` and `dispreferred` do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rlhf.data.errors import DataError
from rlhf.data.layouts import pairs
from rlhf.data.layouts.instructions import PROMPTS
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, is_a
from rlhf.data.layouts.values import COMMON

# Words for the better and for the worse answer, alone or with a noun: `winning_response`, `bad answer`.
_WORDS = (
    *(("chosen", "rejected"), ("accepted", "rejected"), ("preferred", "rejected"), ("selected", "rejected")),
    *(("preferred", "dispreferred"), ("preferred", "unpreferred"), ("preferred", "nonpreferred")),
    *(("winning", "losing"), ("winner", "loser"), ("better", "worse"), ("best", "worst"), ("good", "bad")),
    *(("positive", "negative"), ("pos", "neg"), ("desirable", "undesirable")),
)
_NEED_A_NOUN = ("selected", "winner", "best", "good", "positive", "pos")  # alone they may say something else
_NOUNS = ("", "response", "answer", "output", "completion", "text", "reply", "summary", "generation")


def _spelled(better: str, worse: str) -> Iterator[tuple[str, str]]:
    """The names that two words make, alone and with a noun before or behind them."""
    for noun in _NOUNS:
        if noun:
            yield f"{better}_{noun}", f"{worse}_{noun}"
            yield f"{noun}_{better}", f"{noun}_{worse}"
        elif better not in _NEED_A_NOUN:
            yield better, worse


# All pairs of names, but for those that other layouts read.
_PAIRS = frozenset(
    names
    for pair in _WORDS
    for names in _spelled(*pair)
    if names not in (_WORDS[0], ("chosen_response", "rejected_response"))
) | {("response_j", "response_k")}  # pairs of Stack Exchange, of which j is the better


def _named(columns: Mapping[str, object]) -> list[tuple[str, str]]:
    """The pairs of columns of which names say which is the better."""
    return [names for names in _PAIRS if set(names) <= columns.keys()]


def _fits(columns: Mapping[str, str]) -> bool:
    named = _named(columns)
    if len(named) != 1:
        return False
    both = [is_a(columns, name, "text|messages") for name in named[0]]
    return all(both) and any(is_a(columns, name, "text|messages") for name in (*PROMPTS, "messages"))


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        named = _named(record.columns)
        if len(named) != 1:
            raise DataError(f"two answers are needed, and the columns are {', '.join(record.columns)}")
        [(better, worse)] = named
        prompt = next((n for n in ("prompt", "messages", *PROMPTS) if record.columns.get(n)), "prompt")
        notes.say(f"{better!r} is the better answer, {worse!r} the worse, as their names say")
        names = {better: "chosen", worse: "rejected"} | ({} if prompt == "messages" else {prompt: "prompt"})
        columns = {names.get(name, name): value for name, value in record.columns.items()}
        yield from pairs.LAYOUT.rows([Record(record.where, columns)], options, notes)


LAYOUT = Layout(
    name="named-pairs",
    about="a prompt and two answers whose names say which is the better",
    columns="`prompt`, `preferred`, `dispreferred`; or `accepted`, `rejected`; `winning_response`, "
    "`losing_response`; `better`, `worse`; `good_answer`, `bad_answer`; `response_j`, `response_k`",
    fits=_fits,
    rows=_rows,
    own=COMMON
    | pairs.BESIDE
    | {*PROMPTS, "messages", "system", *(name for names in _PAIRS for name in names)},
    general=True,
)
