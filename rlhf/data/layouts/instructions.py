"""Demonstrations under the names of instruction sets: Alpaca's, prompt and response, question and answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, is_a, text_of
from rlhf.data.layouts.turns import asked
from rlhf.data.layouts.values import common, filled, these

PROMPTS = ("prompt", "instruction", "question", "query", "input", "context", "user")
INPUTS = ("input", "context", "passage", "document", "article", "background")  # what a prompt is about
SYSTEMS = ("system", "system_prompt", "system_message")
QUESTIONS = ("prompt", "instruction", "question", "query")  # prompts that an input may go with
ANSWERS = ("response", "output", "answer", "completion", "target", "summary", "reply", "assistant")
# Columns by which answers are judged: with any of them a file is more than demonstrations.
JUDGED = these(
    "label labels kto_tag rating ratings score scores rank ranks ranking winner choice preferred "
    "preference verdict better chosen rejected chosen_response rejected_response rejected_messages "
    "helpfulness correctness reward feedback thumbs preferred_by reference policy completions answers "
    "thumb thumbs_up vote liked is_good good coherence complexity verbosity overall overall_score quality "
    "options choices"
)


def asking(columns: Mapping[str, str]) -> list[str]:
    """The columns that could be the prompt, without what goes with it: an input, a context, a user's id."""
    names = [name for name in PROMPTS if is_a(columns, name, "text|messages")]
    return [name for name in names if name in QUESTIONS] or names


def instructed(record: Record, notes: Notes) -> dict[str, Any]:
    """The prompt of a record by the names of instruction sets: an input or context stands on a
    line after its instruction or question; system and history make it a conversation.

    Raises:
        DataError: no column is the prompt, or it is no text.
    """
    columns = record.columns
    name = next((name for name in PROMPTS if filled(columns.get(name))), None)
    if name is None:
        raise DataError(f"no column is the prompt among {', '.join(columns)}; name it in ingest.columns")
    prompt = with_context(name, columns[name], columns, notes)
    system = next((columns[name] for name in SYSTEMS if filled(columns.get(name))), None)
    past = columns.get("history")
    if past and name in ("instruction", "query", "prompt"):
        turns = [{"role": "user", "content": text_of(prompt, name)}]
        for exchange in reversed(past):
            if not isinstance(exchange, (list, tuple)) or len(exchange) != 2:
                raise DataError(
                    f"history holds {ascii(exchange)[:40]}; write pairs of a question and an answer"
                )
            said = zip(("user", "assistant"), exchange, strict=True)
            turns = [*({"role": role, "content": text_of(text, "history")} for role, text in said), *turns]
        prompt = turns
    return asked(prompt, record.where, notes, system, name)


def with_context(name: str, prompt: Any, columns: Mapping[str, Any], notes: Notes) -> Any:
    """A question with what it is about: an input or a context stands on a line after it.

    Args:
        name: the column of the prompt.
        prompt: what it holds; turns stay as they are.
        columns: of the record.
        notes: gets which columns were joined.

    Raises:
        DataError: what goes with it is no text.
    """
    for beside in INPUTS if name.lower() in QUESTIONS and isinstance(prompt, str) else ():
        column = next((column for column in columns if column.lower() == beside), beside)
        text = columns.get(column)
        if filled(text) and text != [] and not (isinstance(text, str) and text.strip() in prompt):
            notes.say(f"column {column!r} stands on a line of its own after the {name}")
            prompt = f"{prompt}\n{text_of(text, column)}"
    return prompt


def _fits(columns: Mapping[str, str]) -> bool:
    if {"prompt", "completion"} <= columns.keys() or columns.keys() & JUDGED or "thumb" in columns.values():
        return False
    answers = [name for name in ANSWERS if is_a(columns, name, "text")]
    return len(asking(columns)) == len(answers) == 1


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        name = next(name for name in ANSWERS if name in columns)
        notes.say(f"column {name!r} is read as the demonstration of an answer")
        row = common(columns)
        who = columns.get("writer_id") or row.get("labeler_id")
        kept = {key: row[key] for key in ("split", "source") if key in row}
        answer = {"completion": text_of(columns[name], name), "writer_id": who}
        yield Item("demonstrations", instructed(record, notes) | kept | answer)


LAYOUT = Layout(
    name="instructions",
    about="an instruction or question and its answer (Alpaca, prompt and response)",
    columns="`instruction`, `input`, `output`; `prompt`, `response`; `question`, `answer`; `system`, "
    "`history`",
    fits=_fits,
    rows=_rows,
    own=frozenset(
        (
            *PROMPTS,
            *ANSWERS,
            *SYSTEMS,
            "history",
            "writer_id",
            "labeler_id",
            *INPUTS,
            "split",
            "source",
        )
    ),
)
