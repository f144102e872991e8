"""Answers of Prodigy: `choice` among options, and `compare`, which says which of two texts is accepted.

`answer: reject` means another thing in each: of two compared texts the one under `reject` is the better, but
a rejected choice says nothing of its options. Ignored examples are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.conversations import as_columns
from rlhf.data.errors import DataError
from rlhf.data.layouts.fields import is_chat
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record
from rlhf.data.layouts.turns import turns_of

_PROMPTS = ("prompt", "text", "question", "instruction", "messages", "input", "html")
_NOTES = ("user_input", "comment", "note", "notes", "rationale", "feedback")
_UNDERSCORED = (
    "_input_hash",
    "_task_hash",
    "_session_id",
    "_annotator_id",
    "_view_id",
    "_timestamp",
    "_is_binary",
    "id",
    "config",
    "answer",
    "accept",
)


def _fits_choice(columns: Mapping[str, str]) -> bool:
    return {"options", "answer", "accept"} <= columns.keys() and columns["options"] == "objects"


def _fits_compare(columns: Mapping[str, str]) -> bool:
    return {"accept", "reject", "answer"} <= columns.keys() and columns["accept"] == "object"


def _choices(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        offered, accepted = columns.get("options") or [], columns.get("accept") or []
        if not isinstance(accepted, list):
            accepted = [accepted]
        texts = {str(option["id"]): _text(option, "options") for option in offered if "id" in option}
        if len(texts) < len(offered):
            raise DataError("options need an id each, and no two the same")
        if columns.get("answer") != "accept":
            notes.pass_over(f"examples with answer {columns.get('answer')!r}", record.where)
            continue
        if options.edit and isinstance(columns.get(options.edit), str):
            names = [str(key) for key in accepted] or list(texts)
            yield Item(
                "edits",
                _asked(record, options, notes)
                | {"output": texts.get(names[0]), "policy": names[0], "text": columns[options.edit]}
                | {"labeler_id": _labeler(columns)},
            )
        if not accepted:
            notes.pass_over("accepted examples in which no option is chosen", record.where)
            continue
        if unknown := [key for key in map(str, accepted) if key not in texts]:
            raise DataError(f"accept names {unknown[0]!r}, but the options are {', '.join(texts)}")
        if len(texts) < 2:
            notes.pass_over("examples with fewer than two options", record.where)
            continue
        if len(texts) > 2:
            notes.say("chosen options are better than the others; within each of the two kinds they tie")
        chosen = set(map(str, accepted))
        ranking = [1 if key in chosen or len(chosen) == len(texts) else 2 for key in texts]
        yield _compared(record, options, notes, list(texts.values()), ranking, list(texts))


def _compares(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        answer = columns.get("answer")
        if answer not in ("accept", "reject"):
            notes.pass_over(f"examples with answer {answer!r}", record.where)
            continue
        if answer == "reject":
            notes.say("answer 'reject' of a compared example prefers the text under 'reject'")
        outputs = [_text(columns[side], side) for side in ("accept", "reject")]
        mapping = columns.get("mapping") or {}
        shown_as = {side: name for name, side in mapping.items()} if isinstance(mapping, Mapping) else {}
        policies = [str(shown_as.get(side, side)) for side in ("accept", "reject")]
        ranking = [1, 2] if answer == "accept" else [2, 1]
        yield _compared(record, options, notes, outputs, ranking, policies)


def _compared(
    record: Record,
    options: Options,
    notes: Notes,
    outputs: list[str],
    ranking: list[int],
    policies: list[str],
) -> Item:
    columns = record.columns
    noted = [str(columns[name]) for name in _NOTES if columns.get(name) and name != options.edit]
    return Item(
        "comparisons",
        {
            **_asked(record, options, notes),
            "completions": outputs,
            "ranking": ranking,
            "policies": policies,
            "labeler_id": _labeler(columns),
            "note": "\n".join(noted) or None,
        },
    )


def _asked(record: Record, options: Options, notes: Notes) -> dict[str, Any]:
    """The prompt, as text or messages."""
    columns = record.columns
    names = [options.prompt] if options.prompt else [name for name in _PROMPTS if columns.get(name)]
    if not names or columns.get(names[0]) in (None, ""):
        raise DataError(f"no column for the prompt among {', '.join(columns)}; name it in ingest.prompt")
    value = columns[names[0]]
    value = turns_of(value, record.where, notes) if is_chat(value) else _text(value, names[0])
    return as_columns({"prompt": value}, ends_answered=False)


def _text(value: Any, what: str) -> str:
    """A text, or the one in an object such as `{"text": ...}`."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("text", "html") if isinstance(value.get(name), str)), None)
    if not isinstance(value, str):
        raise DataError(f"{what} holds {ascii(value)[:40]}; it must be a text, or an object with one")
    return value


def _labeler(columns: Mapping[str, Any]) -> str | None:
    who = columns.get("_annotator_id") or columns.get("_session_id")
    return None if who in (None, "") else str(who)


LAYOUTS = (
    Layout(
        name="prodigy-choice",
        about="choices of Prodigy: options, and which of them were accepted",
        columns="`text`, `options`, `accept`, `answer`, `_annotator_id`, `_session_id`",
        fits=_fits_choice,
        rows=_choices,
        of_tool=True,
        own=frozenset((*_PROMPTS, *_NOTES, *_UNDERSCORED, "options")),
    ),
    Layout(
        name="prodigy-compare",
        about="comparisons of Prodigy: the texts under accept and reject, and the answer",
        columns="`input`, `accept`, `reject`, `mapping`, `answer`, `_annotator_id`, `_session_id`",
        fits=_fits_compare,
        rows=_compares,
        of_tool=True,
        own=frozenset((*_PROMPTS, *_NOTES, *_UNDERSCORED, "reject", "mapping")),
    ),
)
