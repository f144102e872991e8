"""Records of Argilla: of version 2 (`records.to_json`), of version 1, and flat ones as `datasets` has them.

A record has fields, and answers of several people by question. What a person answered to one record becomes
one comparison: a label question names an output (or a tie), a ranking question orders outputs, rating
questions rate them. Discarded and draft answers are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.annotated import Answer, items_of, together
from rlhf.data.layouts.fields import shown
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record
from rlhf.data.layouts.values import filled

Answers = dict[str, list[Answer]]  # person -> answers
_RESPONSES, _USERS, _STATUS = ".responses", ".responses.users", ".responses.status"
_SUGGESTED, _SUGGESTED_1 = ".suggestion", "-suggestion"  # of version 2, and of version 1 on the Hub
_UNNAMED = "\0"
_IDS = ("id", "_server_id", "external_id", "status")
_BESIDE = frozenset((*_IDS, "metadata", "vectors", "suggestions", "inserted_at", "updated_at"))


def _fits(columns: Mapping[str, str]) -> bool:
    return columns.get("fields") == "object" and "responses" in columns


def _fits_flat(columns: Mapping[str, str]) -> bool:
    ends = (_USERS, _RESPONSES, _SUGGESTED)
    return any(name.endswith(ends) or f"{name}{_SUGGESTED_1}" in columns for name in columns)


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        fields, responses = record.columns["fields"], record.columns["responses"]
        if not isinstance(fields, Mapping):
            raise DataError(f"fields are {ascii(fields)[:40]}; they must be an object of texts")
        if record.columns.get("suggestions"):
            notes.pass_over("records with suggestions, which are no person's answers", record.where)
        if isinstance(responses, Mapping):
            answers = _by_question(responses, notes, record.where)
        else:
            answers = _by_person(responses, notes, record.where)
        yield from _items(record, fields, answers, options, notes)


def _rows_flat(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        questions = _questions(columns)
        responses = {question: _responses(columns, question) for question in questions}
        ends = (_SUGGESTED, _SUGGESTED_1)
        if any(filled(columns.get(f"{question}{end}")) for question in questions for end in ends):
            notes.pass_over("records with suggestions, which are no person's answers", record.where)
        fields = {
            name: value
            for name, value in columns.items()
            if name not in (*_BESIDE, *questions)
            and not any(name.startswith((f"{question}.", f"{question}-")) for question in questions)
        }
        answers = _by_question(responses, notes, record.where)
        yield from _items(record, fields, answers, options, notes)


def _questions(columns: Mapping[str, Any]) -> list[str]:
    ends = (_RESPONSES, _SUGGESTED)
    told = [name.removesuffix(end) for name in columns for end in ends if name.endswith(end)]
    told += [name for name in columns if f"{name}{_SUGGESTED_1}" in columns]
    return list(dict.fromkeys(told))


def _responses(columns: Mapping[str, Any], question: str) -> list[Any]:
    """The responses to a question of a flat record, as version 2 has them elsewhere.

    Raises:
        DataError: they are texts of a table, or not as many as there are users.
    """
    if question in columns:  # version 1: objects, or as Parquet has them an object of lists
        told = columns[question] or []
        if isinstance(told, Mapping):
            told = [dict(zip(told, values, strict=True)) for values in zip(*told.values(), strict=True)]
        return list(told)
    values = columns.get(question + _RESPONSES) or []
    if isinstance(values, str):
        raise DataError(
            f"the responses to question {question!r} are the text {ascii(values)[:40]}; write lists "
            'as JSON, such as ["response-1"], or export JSON or Parquet'
        )
    users = columns.get(question + _USERS) or [None] * len(values)
    statuses = columns.get(question + _STATUS) or [None] * len(values)
    if not len(values) == len(users) == len(statuses):
        raise DataError(
            f"question {question!r} has {len(values)} responses of {len(users)} users; "
            "each response needs its user"
        )
    return [
        {"value": value, "user_id": user, "status": status}
        for value, user, status in zip(values, users, statuses, strict=True)
    ]


def _items(
    record: Record, fields: Mapping[str, Any], answers: Answers, options: Options, notes: Notes
) -> Iterator[Item]:
    if not answers:
        notes.pass_over("records without a submitted answer", record.where)
        return
    seen, extra = shown(fields, options, notes, record.where), _kept(record, options, notes)
    yield from together(
        items_of(
            seen,
            answered,
            options,
            notes,
            record.where,
            labeler_id=None if person.startswith(_UNNAMED) else f"argilla-{person}",
            **extra,
        )
        for person, answered in answers.items()
    )


def _by_question(responses: Mapping[str, Any], notes: Notes, where: str) -> Answers:
    """Answers as version 2 has them: question -> a list of `value`, `user_id` and, at times, `status`."""
    answers: Answers = {}
    for question, given_by in responses.items():
        for number, response in enumerate(_objects(given_by, f"the responses to question {question!r}")):
            if _submitted(response, notes, where):
                person = _person(response, number)
                answers.setdefault(person, []).append(Answer(question, response.get("value")))
    return answers


def _by_person(responses: Any, notes: Notes, where: str) -> Answers:
    """Answers as version 1 has them: a list of persons, each with `values` by question and a `status`."""
    answers: Answers = {}
    for number, response in enumerate(_objects(responses, "the responses")):
        if not _submitted(response, notes, where):
            continue
        values = response.get("values")
        if not isinstance(values, Mapping):
            raise DataError(f"a response has the values {ascii(values)[:40]}; it needs an object by question")
        for question, said in values.items():
            value = said.get("value") if isinstance(said, Mapping) else said
            answers.setdefault(_person(response, number), []).append(Answer(question, value))
    return answers


def _person(response: Mapping[str, Any], number: int) -> str:
    """Who answered; of people without a name, the place in the list tells one from the other."""
    user = response.get("user_id")
    return f"{_UNNAMED}{number}" if user in (None, "") else str(user)


def _objects(values: Any, what: str) -> list[Mapping[str, Any]]:
    values = [] if values is None else values
    if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
        raise DataError(f"{what} are {ascii(values)[:40]}; they must be a list of objects")
    return values


def _submitted(response: Mapping[str, Any], notes: Notes, where: str) -> bool:
    status = response.get("status")
    if status in (None, "submitted"):
        return True
    notes.pass_over(f"{status} responses", where)
    return False


def _kept(record: Record, options: Options, notes: Notes) -> dict[str, Any]:
    metadata = record.columns.get("metadata")
    if not metadata:
        return {}
    if "metadata" in options.keep or "*" in options.keep:
        kept = json.dumps({"metadata": metadata}, ensure_ascii=False, sort_keys=True, default=str)
        return {"extra": kept}
    notes.say("metadata of records is not read; ingest.keep: [metadata] keeps it")
    return {}


LAYOUTS = (
    Layout(
        name="argilla",
        about="records of Argilla, version 1 or 2: fields, and answers of several people by question",
        columns="`fields`, `responses`, `metadata`, `suggestions`",
        fits=_fits,
        rows=_rows,
        of_tool=True,
    ),
    Layout(
        name="argilla-flat",
        about="records of Argilla as `datasets` has them: a column for each field and each question",
        columns="the fields, `QUESTION.responses`, `QUESTION.responses.users`, `QUESTION.responses.status`, "
        "`QUESTION.suggestion`; or `QUESTION[{value, user_id, status}]`, `QUESTION-suggestion`",
        fits=_fits_flat,
        rows=_rows_flat,
        of_tool=True,
    ),
)
