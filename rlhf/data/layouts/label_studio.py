"""Exports of Label Studio as JSON: tasks with their data, and annotations with results.

What is left and right of a pair is what `to_name` says, in its order. Buckets of a ranker are ranks in the
order in which they stand: items of one bucket tie, and what nobody moved (`_`) is unranked. Cancelled
annotations are skips, and predictions are a machine's; both are passed over and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.annotated import Answer, items_of, together
from rlhf.data.layouts.fields import Shown, ask_for_outputs, shown, stem_and_suffix
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record
from rlhf.data.layouts.values import these, words

_UNTOUCHED = "_"
_TEXTS = ("body", "text", "html", "content", "value", "title")
_BETTER = these("best better good great excellent top relevant preferred accept accepted")
_WORSE = these("worst worse bad poor terrible bottom irrelevant rejected reject biased unacceptable")
# type of a result -> the key of what it says
VALUES = {"choices": "choices", "rating": "rating", "number": "number", "textarea": "text"}


def _fits(columns: Mapping[str, str]) -> bool:
    return columns.get("data") == "object" and "annotations" in columns


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        data, annotations = record.columns["data"], record.columns["annotations"] or []
        for kind in ("predictions", "drafts"):
            entries = record.columns.get(kind) or []
            # without its own content, an entry is only the number of one in the tool's database
            for entry in entries if isinstance(entries, list) else []:
                if entry:
                    notes.pass_over(f"{kind}, which are no annotations", record.where)
        if not annotations:
            notes.pass_over("tasks without an annotation", record.where)
        if not isinstance(annotations, list):
            raise DataError(f"annotations are {ascii(annotations)[:40]}; they must be a list")
        yield from together(_annotations(annotations, data, options, notes, record.where))


def _annotations(
    annotations: Sequence[Any], data: Mapping[str, Any], options: Options, notes: Notes, where: str
) -> Iterator[Iterator[Item]]:
    """The items of each annotation that says something."""
    for annotation in annotations:
        if not isinstance(annotation, Mapping) or not isinstance(annotation.get("result", []), list):
            raise DataError(f"an annotation is {ascii(annotation)[:40]}; it must be an object with a result")
        if annotation.get("was_cancelled"):
            notes.pass_over("cancelled annotations, which are skips", where)
        elif not annotation.get("result"):
            notes.pass_over("annotations without a result", where)
        else:
            common = {
                "labeler_id": labeler_of(annotation.get("completed_by")),
                "seconds": annotation.get("lead_time"),
            }
            yield annotated(data, annotation["result"], options, notes, where, common)


def annotated(
    data: Mapping[str, Any],
    results: Sequence[Any],
    options: Options,
    notes: Notes,
    where: str,
    common: Mapping[str, Any],
) -> Iterator[Item]:
    """What one annotation says: results about items of a list, about a pair, or about the fields.

    Args:
        data: the task's.
        results: with `type`, `from_name`, `to_name` and `value`.
        options: what the user says.
        notes: gets what was passed over.
        where: the record.
        common: columns of what comes out, such as `labeler_id`.

    Raises:
        DataError: a result of another shape, or one that leaves a choice (see `annotated.items_of`).
    """
    seen: Shown | None = None
    answers: list[Answer] = []
    order: dict[str, Any] = {}
    for result in results:
        if not isinstance(result, Mapping) or not isinstance(result.get("value", {}), Mapping):
            raise DataError(f"a result is {ascii(result)[:40]}; it must be an object with a value")
        kind, value = result.get("type"), result.get("value", {})
        question = str(result.get("from_name") or kind)
        about = tuple(name.strip() for name in str(result.get("to_name") or "").split(",") if name.strip())
        if kind == "ranker":
            seen, answer = _ranker(data, value.get("ranker"), question, seen, options, notes, where)
            if answer is None:
                notes.pass_over("rankers in which nothing was moved", where)
            else:
                answers.append(answer)
        elif kind == "pairwise":
            seen = _pair(data, about, options, notes, where)
            order = {"shown_order": [0, 1]}
            answers.append(Answer(question, value.get("selected")))
        elif kind in VALUES:
            said = value.get(VALUES[str(kind)])
            if isinstance(said, list) and kind == "textarea":
                said = "\n".join(map(str, said))
            elif isinstance(said, list) and len(said) == 1:
                said = said[0]
            free = True if kind == "textarea" else None
            answers.append(Answer(question, said, about, free=free, chosen=kind == "choices"))
        else:
            notes.pass_over(f"results of type {kind!r}, question {question!r}", where)
    if not answers:
        return
    seen = seen or shown(fields_of(data), options, notes, where)
    yield from items_of(seen, answers, options, notes, where, **common, **order)


def _pair(data: Mapping[str, Any], about: Sequence[str], options: Options, notes: Notes, where: str) -> Shown:
    """The two outputs of a pair, the left one first.

    Raises:
        DataError: nothing says which fields they are.
    """
    if len(about) == 2 and set(about) <= data.keys():
        # The other fields are no outputs then, so that they cannot be taken for a second pair.
        rest = {name: value for name, value in fields_of(data).items() if name not in about}
        asked = shown(rest, Options(prompt=options.prompt), Notes(), where)
        return asked.only(about, data)
    seen = shown(fields_of(data), options, notes, where)
    if len(seen.names) != 2 or not seen.ordered:
        raise ask_for_outputs(seen.names)
    if len(about) == 2 and not options.outputs:
        # The tags are called otherwise than the fields; their numbers or letters must say the same.
        tags, fields = (
            [(stem_and_suffix(name) or ("", ""))[1] for name in names] for names in (about, seen.names)
        )
        if set(tags) != set(fields) or len(set(tags)) < 2:
            raise ask_for_outputs(seen.names)
        first, second = (seen.names[fields.index(tag)] for tag in tags)
        return seen.only((first, second), data)
    notes.say(f"left is {seen.names[0]!r} and right is {seen.names[1]!r}; ingest.outputs says otherwise")
    return seen


def _ranker(
    data: Mapping[str, Any],
    value: Any,
    question: str,
    seen: Shown | None,
    options: Options,
    notes: Notes,
    where: str,
) -> tuple[Shown, Answer | None]:
    """What a ranker orders: a list of ids, a list under one name, or buckets.

    Raises:
        DataError: the result is none of these, or no list of the task has these ids.
    """
    if isinstance(value, list):
        value = {question: value}
    if not isinstance(value, Mapping) or not all(isinstance(ids, list) for ids in value.values()):
        raise DataError(
            f"the ranker {question!r} has {ascii(value)[:60]}; it needs a list of ids, or one for each bucket"
        )
    buckets = {name: [str(key) for key in ids] for name, ids in value.items()}
    listed = _listed(data, {key for ids in buckets.values() for key in ids})
    asked = shown(fields_of(data), Options(prompt=options.prompt), Notes(), where)
    seen = seen or Shown(asked.asked, tuple(listed), tuple(listed.values()), ordered=False)
    if len(buckets) == 1 and _UNTOUCHED not in buckets:
        [ids] = buckets.values()
        ranks = {key: place for place, key in enumerate(ids, start=1)}
    else:
        names = _bucket_names(buckets, question, options, notes, where)
        ranks = {key: place for place, name in enumerate(names, start=1) for key in buckets[name]}
    if not ranks:
        return seen, None
    return seen, Answer(question, [{"value": key, "rank": rank} for key, rank in ranks.items()])


def _bucket_names(
    buckets: Mapping[str, Sequence[str]], question: str, options: Options, notes: Notes, where: str
) -> list[str]:
    """The names of the buckets, the best first.

    Raises:
        DataError: they stand in another order than in an earlier record, or their names say that the worst
            comes first: what is better is not certain then.
    """
    names = [name for name in buckets if name != _UNTOUCHED]
    file = where.rpartition(":")[0]
    for above, below in combinations(names, 2):
        if notes.first((file, question, *sorted((above, below))), above) != above:
            raise DataError(
                f"the buckets of the ranker {question!r} are {', '.join(names)} here, and {below!r} comes "
                f"before {above!r} in an earlier record; write those of all records in one order"
            )
        if options.direction is None and _says(above, _WORSE) and _says(below, _BETTER):
            raise DataError(
                f"of the buckets of the ranker {question!r} {above!r} comes before {below!r}; set "
                "ingest.direction to higher where the later bucket is the better, or to lower where it is not"
            )
    order, best = ", ".join(map(repr, names)), "first"
    if options.direction == "higher":
        names, best = names[::-1], "last"
    notes.say(
        f"buckets of the ranker {question!r} are ranks in the order {order}: the {best} is best, items of "
        "one bucket tie, and what was left in the list is unranked"
    )
    return names


def _says(name: str, wanted: frozenset[str]) -> bool:
    return bool(set(words(name)) & wanted)


def _listed(data: Mapping[str, Any], wanted: set[str]) -> dict[str, str]:
    """id -> text of the list that has these ids."""
    fitting = []
    for entries in data.values():
        if isinstance(entries, list) and entries:
            texts = texts_by_id(entries)
            if texts and wanted <= texts.keys():
                fitting.append(texts)
    if len(fitting) != 1:
        lists = [name for name, value in data.items() if isinstance(value, list)]
        raise DataError(
            f"{'no list' if not fitting else 'more than one list'} of the task has the ranked ids "
            f"{', '.join(sorted(wanted))[:60] or '(none)'}; lists: {', '.join(lists) or 'none'}"
        )
    return fitting[0]


def texts_by_id(entries: Sequence[Any]) -> dict[str, str]:
    """id -> text of the items of a list; empty where they are no such items."""
    texts = {}
    for entry in entries:
        if not isinstance(entry, Mapping) or "id" not in entry:
            return {}
        name = next(
            (name for name in _TEXTS if isinstance(entry.get(name), str) and entry[name].strip()), None
        )
        if name is None:
            return {}
        texts[str(entry["id"])] = entry[name]
    return texts


def fields_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The texts and lists of a task's data, which people may have read.

    Raises:
        DataError: the data is no object.
    """
    if not isinstance(data, Mapping):
        raise DataError(f"data is {ascii(data)[:40]}; it must be an object of fields")
    return {name: value for name, value in data.items() if isinstance(value, (str, list))}


def labeler_of(by: Any) -> str | None:
    """Who annotated: an e-mail address, or a number."""
    if isinstance(by, Mapping):
        by = by.get("email") or by.get("id")
    return None if by in (None, "") else f"label-studio-{by}"


LAYOUT = Layout(
    name="label-studio",
    about="tasks of Label Studio, exported as JSON: data, and annotations with results",
    columns="`data`, `annotations`, `predictions`",
    fits=_fits,
    rows=_rows,
    of_tool=True,
)
