"""Answers with a thumb up or down, under the names that people give them, such as `kto_tag` and `liked`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.instructions import ANSWERS, PROMPTS, instructed
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, is_a, text_of
from rlhf.data.layouts.thumb_words import says_thumb, thumb
from rlhf.data.layouts.turns import asked, turns_of
from rlhf.data.layouts.values import COMMON, common, filled

THUMBS = (
    *("kto_tag", "label", "thumb", "thumbs", "thumbs_up", "feedback", "vote", "liked", "is_good", "good"),
    *("reaction", "user_feedback", "is_liked", "is_helpful", "thumb_rating"),
)
_TURNS = ("conversations", "messages")


def _fits(columns: Mapping[str, str]) -> bool:
    if columns.keys() & {"chosen", "rejected", "ranking", "winner"} or {"prompt", "completion", "label"} <= (
        columns.keys()
    ):
        return False
    thumbs = [n for n in THUMBS if is_a(columns, n, "bool|number|text")]
    thumbs = thumbs or [n for n, kind in columns.items() if kind == "thumb" and n not in (*PROMPTS, *ANSWERS)]
    answers = [n for n in ANSWERS if is_a(columns, n, "text")]
    asks = [n for n in PROMPTS if is_a(columns, n, "text|messages")]
    turns = [n for n in _TURNS if columns.get(n) == "answered"]
    if turns == ["messages"] and thumbs == ["label"]:
        return False  # ms-swift
    if len(thumbs) != 1 and "kto_tag" not in thumbs:
        return False
    return len(turns) == 1 or (not turns and len(answers) == 1 and bool(asks))


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns, where = record.columns, record.where
        column = next((name for name in THUMBS if name in columns), None) or _by_value(columns)
        if column is None or not filled(columns[column]):
            notes.pass_over("answers without a thumb", where)
            continue
        label = thumb(columns[column], column, options, notes, where)
        if label is None:
            notes.pass_over("votes that ingest.words skips", where, columns[column])
            continue
        turns = next((columns[name] for name in _TURNS if columns.get(name)), None)
        prompt: dict[str, Any]
        if turns:
            *front, last = turns_of(turns, where, notes)
            if last["role"] != "assistant":
                raise DataError(f"the turns do not end with the assistant's, which {column} is about")
            prompt, answer = asked(front, where, notes, columns.get("system")), last["content"]
        else:
            name = next(name for name in ANSWERS if name in columns)
            prompt, answer = instructed(record, notes), text_of(columns.get(name), name)
        notes.say(f"column {column!r}: true, 1, good or up is a thumb up, false, 0, -1, bad or down is none")
        kept = common({key: value for key, value in columns.items() if key != column})
        yield Item("votes", prompt | kept | {"completion": answer, "label": label})


def _by_value(columns: Mapping[str, Any]) -> str | None:
    """The column that holds a thumb, whatever it is called."""
    beside = ((name, value) for name, value in columns.items() if name not in (*PROMPTS, *ANSWERS, *_TURNS))
    return next((name for name, value in beside if isinstance(value, str) and says_thumb(value)), None)


LAYOUT = Layout(
    name="thumbs",
    about="an answer and whether it is good (LLaMA-Factory's KTO sets, logs of thumbs)",
    columns="`instruction`, `input`, `output`, `kto_tag`; `prompt`, `response`, `label` or `liked` or "
    "`feedback`, or any column of thumbs such as up and down; `conversations`, `kto_tag`",
    fits=_fits,
    rows=_rows,
    own=COMMON | {*PROMPTS, *ANSWERS, *_TURNS, *THUMBS, "system", "system_prompt", "history"},
)
