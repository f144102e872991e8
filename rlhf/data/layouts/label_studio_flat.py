"""Flat exports of Label Studio, JSON-MIN or CSV: a row for each annotation, with data and answers as columns.

Such a row does not say what its columns are, nor what stood left: names, places and values tell, and where
they leave a choice the user is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.formats.json_files import value_of
from rlhf.data.layouts.fields import ask_for_outputs, plain, shown
from rlhf.data.layouts.label_studio import VALUES, annotated, fields_of, labeler_of, texts_by_id
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record
from rlhf.data.layouts.meanings import meaning_of

_MIN = ("annotation_id", "annotator", "created_at", "updated_at", "lead_time", "id", "agreement")
_KEYS = {**VALUES, "ranker": "ranker", "pairwise": "selected"}  # type of a result -> the key of what it says
_KINDS = {key: kind for kind, key in _KEYS.items()}


def _fits(columns: Mapping[str, str]) -> bool:
    return {"annotation_id", "annotator"} <= columns.keys()


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = {name: _cell(value) for name, value in record.columns.items()}
        data, said = _parted(columns, options)
        common: dict[str, Any] = {
            "labeler_id": labeler_of(columns.get("annotator")),
            "seconds": _number(columns.get("lead_time")),
        }
        results = [_result(name, value, data) for name, value in said.items() if value not in (None, "", [])]
        if not results:
            notes.pass_over("rows without an answer", record.where)
            continue
        if any(result["type"] == "pairwise" for result in results):
            _order_is_said(columns, data, options)
        yield from annotated(data, results, options, notes, record.where, common)


def _parted(columns: Mapping[str, Any], options: Options) -> tuple[dict[str, Any], dict[str, Any]]:
    """The data of a flat row, and its answers.

    In the tool's own order the answers stand between the task's `id` and `annotator`. In any other order, as
    of a sorted CSV, they are the columns whose values answer something.
    """
    names = [name for name in columns if name not in _MIN]
    every = list(columns)
    ordered = "id" in every and every.index("id") < every.index("annotator")
    between = every[every.index("id") + 1 : every.index("annotator")] if ordered else names
    before = {name: columns[name] for name in names if name not in between}
    if ordered and _shows_outputs(before, options):
        return before, {name: columns[name] for name in between}
    fields = fields_of({name: columns[name] for name in names if not _says(columns[name], options)})
    try:
        seen = shown(fields, options, Notes(), "")
        used = {name for name in fields if fields[name] in (*seen.outputs, seen.asked.get("prompt"))}
    except DataError:
        if set(between) >= set(names):
            raise
        seen, used = None, set()
    used |= {name for name in names if isinstance(columns[name], list) or name == options.prompt}
    answers = {name: columns[name] for name in between if name not in used}
    if not ordered and seen is not None:
        asked = {options.edit, *options.aspects}
        answers = {
            name: value
            for name, value in answers.items()
            if name in asked
            or not isinstance(value, str)
            or _says(value, options)
            or meaning_of(value, seen, options) is not None
            or any(plain(output) in plain(name) for output in seen.names)
        }
    return {name: columns[name] for name in names if name not in answers}, answers


def _shows_outputs(data: Mapping[str, Any], options: Options) -> bool:
    """Whether columns hold a prompt and outputs, as texts or as a list."""
    try:
        names = shown(fields_of(data), options, Notes(), "").names
    except DataError:
        return False
    return len(names) > 1 or any(isinstance(value, list) and texts_by_id(value) for value in data.values())


def _says(value: Any, options: Options) -> bool:
    """Whether a value is an answer in any task: a side, a ranker, or a word that the user maps."""
    return (
        value in ("left", "right")
        or isinstance(value, Mapping)
        or (isinstance(value, str) and value in options.words)
    )


def _result(name: str, value: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """A cell of a flat row as a result of the full form."""
    if any(plain(field) in plain(name) for field in data):
        value = _number(value)  # `rating_answer1`, which a CSV writes as text
    if isinstance(value, Mapping) and len(value) == 1 and (kind := _KINDS.get(next(iter(value)))):
        return {"type": kind, "from_name": name, "value": value}
    kind = "choices"
    if isinstance(value, Mapping):
        kind = "ranker"
    elif value in ("left", "right"):
        kind = "pairwise"
    elif isinstance(value, (int, float)):
        kind = "number"
    return {"type": kind, "from_name": name, "value": {_KEYS[kind]: value}}


def _order_is_said(columns: Mapping[str, Any], data: Mapping[str, Any], options: Options) -> None:
    """Refuse a flat pair whose names count otherwise than its columns stand: left may be either."""
    seen = shown(fields_of(data), options, Notes(), "")
    if not options.outputs and [name for name in columns if name in seen.names] != list(seen.names):
        raise ask_for_outputs(seen.names)


def _number(value: Any) -> Any:
    """A number that a CSV wrote as text; anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _cell(value: Any) -> Any:
    """A cell without its wrapping: a CSV writes objects and lists as JSON, and the tool writes every answer
    but a lone choice or text as a list of results, such as `[{"rating": 4}]`."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            value = value_of(value)
        except DataError:
            return value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
        told = [key for key, said in value[0].items() if said is not None and key != "type"]
        # `text` is a list in an answer, and a text in a list of the task's data.
        if len(told) == 1 and told[0] in _KINDS and not isinstance(value[0].get("text"), str):
            return {told[0]: value[0][told[0]]}
    return value


LAYOUT = Layout(
    name="label-studio-min",
    about="annotations of Label Studio, exported as JSON-MIN or CSV: a row for each",
    columns="the data, the answers, `annotator`, `annotation_id`, `lead_time`",
    fits=_fits,
    rows=_rows,
    of_tool=True,
)
