"""What annotators of labeling tools answer, and what it says of the outputs that they were shown.

A label, a list or ratings become a ranking; free text is the note of the ranking, and an edit of an output
only where the user names the question that asks for one. A value that means nothing known is refused with all
values of its kind (`UnknownWords`), because every guess would turn somebody's preference into another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.fields import Shown, ask_for_outputs, plain, stem_and_suffix
from rlhf.data.layouts.layout import Item, Notes, Options, UnknownWords
from rlhf.data.layouts.meanings import meaning_of, place_in
from rlhf.data.layouts.values import asks_for_worse, is_numeral, number_of
from rlhf.data.layouts.verdict_words import plain as word
from rlhf.data.layouts.verdicts import direction, ranked
from rlhf.data.near import meant
from rlhf.data.rankings import dense_ranks

_SOME_NOTES = ("comment", "comments", "rationale", "reason", "reasons", "explanation", "feedback", "note")
_NOTES = frozenset((*_SOME_NOTES, "notes", "remark", "remarks", "why", "justification", "critique"))
OVERALL = ("rating", "overall", "overallrating", "score", "quality")


@dataclass(frozen=True)
class Answer:
    """One answer of one person.

    Attributes:
        question: its name.
        value: as the tool writes it: a text, a number, a list of texts, or ranks by name.
        about: the outputs that the question is about, where the tool says so.
        free: whether the question asks for free text, None where the tool does not say.
        chosen: whether a list holds what was chosen, in no order.
    """

    question: str
    value: Any
    about: tuple[str, ...] = ()
    free: bool | None = None
    chosen: bool = False


@dataclass(frozen=True)
class _Ranked:
    """What a question says of the outputs."""

    question: str
    ranking: list[int | None]
    scores: list[float] | None = None
    both_bad: bool = False


def items_of(
    seen: Shown,
    answers: Sequence[Answer],
    options: Options,
    notes: Notes,
    where: str,
    **common: Any,
) -> Iterator[Item]:
    """What one person's answers to one record are: a comparison, with free text as its note, and edits.

    Args:
        seen: what the person was shown.
        answers: all that the person answered.
        options: what the user says.
        notes: gets what was passed over.
        where: the record.
        common: columns of the comparison, such as `labeler_id`.

    Raises:
        UnknownWords: answers that mean nothing known.
        DataError: several questions order the outputs, or nothing says which fields are outputs.
    """
    ranked: list[_Ranked] = []
    ratings: dict[str, dict[int, float]] = {}
    texts: list[Answer] = []
    edits: list[Item] = []
    of_one = _about_one_output(seen, answers)
    mapped = {word(said) for said in options.words}
    for answer in answers:
        question, value = answer.question, answer.value
        if value is None or value == "" or value == []:
            notes.pass_over(f"empty answers to question {question!r}", where)
        elif answer in of_one:
            notes.pass_over(
                f"answers to question {question!r}, which is about one output alone", where, value
            )
        elif asks_for_worse(question) and question not in options.aspects and answer.free is not True:
            notes.pass_over(
                f"answers to question {question!r}, which asks for the worse output", where, value
            )
        elif options.edit == question:
            edits.append(_edit(seen, answer, common))
        elif (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and mapped.isdisjoint({word(value)})
        ):
            place = _rated(seen, answer)
            if place is None:
                notes.pass_over(f"ratings of question {question!r}, which names no output", where, value)
            else:
                ratings.setdefault(_aspect(answer, seen, place), {})[place] = float(value)
        elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
            value = word(value) if not isinstance(value, str) else value
            meaning = None if answer.free else meaning_of(value, seen, options)
            if meaning is None:
                texts.append(answer)
            elif meaning == "skip":
                notes.pass_over(f"answers to question {question!r} that ingest.words skips", where, value)
            else:
                ranked.append(_chosen(seen, question, meaning, notes))
        elif isinstance(value, list):
            order = _ranks(seen, answer, options)
            if order is None:
                notes.pass_over(f"answers to question {question!r}, which order no outputs", where, value)
            else:
                if not answer.chosen and not isinstance(value[0], Mapping):
                    notes.say(f"lists of outputs are rankings, the best first, in question {question!r}")
                ranked.append(_Ranked(question, order))
        elif isinstance(value, Mapping) and (order := _by_name(seen, answer, options, notes)) is not None:
            ranked.append(_Ranked(question, order))
        else:
            notes.pass_over(f"answers to question {question!r}", where, value)
    decided = _decided(ranked, ratings, seen, options, notes, where)
    unread = [answer for answer in texts if not answer.free and plain(answer.question) not in _NOTES]
    if decided is None and not edits and unread:
        raise UnknownWords({(answer.question, answer.value): 1 for answer in unread})
    if decided is None and not edits:
        for answer in texts:
            notes.pass_over(f"free texts of question {answer.question!r}", where, answer.value)
    note = _note(texts)
    yield from (Item(item.table, item.row | ({"note": note} if note else {})) for item in edits)
    if decided is not None:
        if note and edits == []:
            notes.say("free text beside a preference is kept as its note; ingest.edit names text that edits")
        yield Item(
            "comparisons",
            {
                **seen.asked,
                "completions": list(seen.outputs),
                "ranking": decided.ranking,
                "policies": list(seen.names),
                "scores": decided.scores,
                "both_bad": True if decided.both_bad else None,
                "note": note or None,
                **common,
            },
        )


def together(people: Iterable[Iterable[Item]]) -> Iterator[Item]:
    """The items of several people's answers to one record; their unknown words are one error.

    Raises:
        UnknownWords: with those of all of them.
    """
    met: Counter[tuple[str, str]] = Counter()
    for items in people:
        try:
            yield from items
        except UnknownWords as error:
            met.update(error.met)
    if met:
        raise UnknownWords(met)


def _chosen(seen: Shown, question: str, meaning: int | str, notes: Notes) -> _Ranked:
    if not seen.sure:
        raise ask_for_outputs(seen.names)
    if len(seen.names) < 2:
        raise DataError(f"question {question!r} prefers an output, but there is only {seen.names!r}")
    if isinstance(meaning, str):
        if meaning == "both_bad":
            notes.say('"neither" and "both bad" are ties, marked as both bad')
        return _Ranked(question, [1] * len(seen.names), both_bad=meaning == "both_bad")
    if len(seen.names) > 2:
        notes.say("where one of more than two outputs is chosen, it is better than the others, which tie")
    return _Ranked(question, [1 if place == meaning else 2 for place in range(len(seen.names))])


def _ranks(seen: Shown, answer: Answer, options: Options) -> list[int | None] | None:
    """The ranking that a list of names, or of names with ranks, gives; None for a list of something else."""
    ranks: dict[int, Any] = {}
    told = all(isinstance(entry, Mapping) for entry in answer.value)  # with ranks, so it is a ranking
    unknown: dict[tuple[str, str], int] = {}
    for number, entry in enumerate(answer.value, start=1):
        value, rank = entry, number
        if isinstance(entry, Mapping):
            if "value" not in entry or "rank" not in entry:
                return None
            value, rank = entry["value"], entry["rank"]
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # the name of an output that is a number
        place = meaning_of(value, seen, options) if isinstance(value, str) else None
        if not isinstance(place, int):
            unknown[answer.question, str(value)] = 1
        elif answer.chosen:
            ranks[place] = 1
        elif place in ranks:
            raise DataError(f"question {answer.question!r} ranks {value!r} twice")
        else:
            ranks[place] = rank
    if unknown and ranks:
        raise UnknownWords(unknown)
    if answer.chosen and ranks:
        if not seen.sure:
            raise ask_for_outputs(seen.names)
        everything = range(len(seen.names))
        return dense_ranks([ranks.get(place, 2) for place in everything])
    if len(ranks) < (1 if told else 2):
        return None
    return dense_ranks([ranks.get(place) for place in range(len(seen.names))])


def _by_name(seen: Shown, answer: Answer, options: Options, notes: Notes) -> list[int | None] | None:
    """The ranking that numbers under the names of outputs give; None where the keys are something else."""
    places = {meaning_of(str(name), seen, options): number for name, number in answer.value.items()}
    if len(places) < 2 or len(places) < len(answer.value) or not all(isinstance(p, int) for p in places):
        return None
    if not all(number is None or is_numeral(number) for number in places.values()):
        return None
    better = direction(answer.question, options)
    notes.say(
        f"question {answer.question!r}: the {better} number is the better (ingest.direction says otherwise)"
    )
    numbers = [places.get(place) for place in range(len(seen.names))]
    told = [None if number is None else number_of(number, answer.question) for number in numbers]
    return dense_ranks(ranked(told, better))


def _rated(seen: Shown, answer: Answer) -> int | None:
    """The output that a rating is about: the tool says it, or the name of the question does."""
    if len(answer.about) == 1 and answer.about[0] in seen.names:
        return seen.names.index(answer.about[0])
    bare = plain(answer.question)
    named = [place for place, name in enumerate(seen.names) if plain(name) in bare]
    if len(named) == 1:
        return named[0]
    parted = stem_and_suffix(answer.question)
    return place_in(parted[1], seen) if parted and seen.ordered else None


def _aspect(answer: Answer, seen: Shown, place: int) -> str:
    """What is rated, without the output that it is rated of: `helpfulness` of `helpfulness-1`."""
    if answer.about and answer.about[0] in seen.names:
        parted = stem_and_suffix(answer.question)
        same = parted and parted[1] == (stem_and_suffix(seen.names[place]) or ("", ""))[1]
        return parted[0] if parted and same else plain(answer.question)
    rest = plain(answer.question).replace(plain(seen.names[place]), "")
    if rest != plain(answer.question):
        return rest or "rating"
    return (stem_and_suffix(answer.question) or (rest, ""))[0]


def _about_one_output(seen: Shown, answers: Sequence[Answer]) -> list[Answer]:
    """Answers in words to questions that are asked of each output by itself, such as whether it is good: they
    name no output, and no map of words can tell of which they are."""
    alone = [answer for answer in answers if isinstance(answer.value, str) and not answer.free]
    alone = [answer for answer in alone if len(answer.about) == 1 and answer.about[0] in seen.names]
    return alone if len({answer.about for answer in alone}) > 1 else []


def _decided(
    ranked: Sequence[_Ranked],
    ratings: Mapping[str, Mapping[int, float]],
    seen: Shown,
    options: Options,
    notes: Notes,
    where: str,
) -> _Ranked | None:
    """The one ranking of a person: of the question that orders the outputs, or of the ratings."""
    wanted = {plain(name) for name in options.aspects}
    chosen = [entry for entry in ranked if not wanted or plain(entry.question) in wanted]
    if len(chosen) > 1:
        names = ", ".join(repr(entry.question) for entry in chosen)
        raise DataError(
            f"questions {names} all order the outputs; say which counts in ingest.aspects, such as "
            f"{{{chosen[0].question}: 1}}"
        )
    for entry in ranked:
        if entry not in chosen:
            notes.pass_over(f"answers to question {entry.question!r}, which ingest.aspects leaves out", where)
    if chosen:
        for name in ratings:
            notes.pass_over(f"ratings by {name!r} beside a preference", where)
        return chosen[0]
    return _by_ratings(ratings, seen, options, notes, where) if ratings else None


def _by_ratings(
    ratings: Mapping[str, Mapping[int, float]],
    seen: Shown,
    options: Options,
    notes: Notes,
    where: str,
) -> _Ranked:
    """The ranking of ratings of each output; higher is better unless the user says otherwise."""
    if not seen.sure:
        raise ask_for_outputs(seen.names)
    weights = {plain(name): weight for name, weight in options.aspects.items()}
    if not weights:
        overall = [name for name in ratings if name in OVERALL] or list(ratings)
        if len(overall) > 1:
            raise DataError(
                f"outputs are rated by {', '.join(ratings)}; say what counts in ingest.aspects, such as "
                f"{{{overall[0]}: 1}}"
            )
        weights = {overall[0]: 1.0}
        for name in ratings:
            if name not in weights:
                notes.pass_over(f"ratings by {name!r}, which ingest.aspects does not name", where)
    missing = [name for name in weights if name not in ratings]
    if missing:
        raise DataError(
            f"no ratings by {missing[0]!r}, which ingest.aspects names; there are {list(ratings)}"
            f"{meant(missing[0], ratings)}"
        )
    rated = [place for place in range(len(seen.names)) if all(place in ratings[name] for name in weights)]
    total = {place: sum(weights[name] * ratings[name][place] for name in weights) for place in rated}
    sign = 1 if options.direction == "lower" else -1
    better = "lower" if options.direction == "lower" else "higher"
    notes.say(f"ratings give the ranking of each person: the {better} is better")
    if len(rated) < len(seen.names):
        notes.pass_over("outputs without a rating beside rated ones", where)
    ranking = dense_ranks(
        [sign * total[place] if place in total else None for place in range(len(seen.names))]
    )
    whole = len(rated) == len(seen.names)
    return _Ranked("ratings", ranking, [-sign * total[place] for place in rated] if whole else None)


def _edit(seen: Shown, answer: Answer, common: Mapping[str, Any]) -> Item:
    """What a person made of an output: of the one that the question is about, or else of the first."""
    text = answer.value
    if isinstance(text, list) and all(isinstance(line, str) for line in text):
        text = "\n".join(text)
    if not isinstance(text, str):
        raise DataError(
            f"question {answer.question!r}, which ingest.edit names, has {ascii(text)[:60]}: no text"
        )
    place = 0
    if len(answer.about) == 1 and answer.about[0] in seen.names:
        place = seen.names.index(answer.about[0])
    elif len(seen.names) > 1 and not seen.ordered:
        raise ask_for_outputs(seen.names)
    row = {**seen.asked, "output": None, "text": text, **common}
    if seen.names:
        row |= {"output": seen.outputs[place], "policy": seen.names[place]}
    row.pop("shown_order", None)
    return Item("edits", row)


def _note(texts: Sequence[Answer]) -> str:
    """Free texts as one; each under its question where there are several."""
    if len(texts) == 1:
        return str(texts[0].value)
    return "\n".join(f"{answer.question}: {answer.value}" for answer in texts)
