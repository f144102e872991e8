"""Pairs under the names of Axolotl's and LLaMA-Factory's DPO sets.

The prompt is an instruction with an optional input, a question, an input alone, or `conversations`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rlhf.data.layouts.instructions import instructed
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, is_a, text_of
from rlhf.data.layouts.pairs import BESIDE, judged
from rlhf.data.layouts.turns import parted, turns_of
from rlhf.data.layouts.values import COMMON

_PROMPTS = ("instruction", "question", "input", "query")
_BESIDE = BESIDE | {"system", "system_prompt", "history"}


def _fits_named(columns: Mapping[str, str]) -> bool:
    if is_a(columns, "chosen_response", "text") and is_a(columns, "rejected_response", "text"):
        return any(name in columns for name in ("prompt", *_PROMPTS))
    texts = is_a(columns, "chosen", "text") and is_a(columns, "rejected", "text")
    return (
        texts
        and "transcript" not in (columns["chosen"], columns["rejected"])
        and not columns.keys() & {"prompt", "messages", "conversations"}
        and any(is_a(columns, name, "text") for name in _PROMPTS)
    )


def _rows_named(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        names = [name if name in columns else f"{name}_response" for name in ("chosen", "rejected")]
        answers = [text_of(columns.get(name), name) for name in names]
        yield judged(instructed(record, notes), answers, columns, notes)


def _fits_shared(columns: Mapping[str, str]) -> bool:
    return (
        is_a(columns, "conversations", "messages")
        and "prompt" not in columns
        and {"chosen", "rejected"} <= columns.keys()
    )


def _rows_shared(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns, where = record.columns, record.where
        front = turns_of(columns["conversations"], where, notes)
        if columns.get("system"):
            front = [{"role": "system", "content": text_of(columns["system"], "system")}, *front]
        ends = []
        for name in ("chosen", "rejected"):
            answer = columns.get(name)
            if isinstance(answer, str):
                answer = {"role": "assistant", "content": answer}
            ends.append([*front, *turns_of(answer, where, notes)])
        yield judged(*parted(ends, notes), columns, notes)


LAYOUTS = (
    Layout(
        name="instruction-pairs",
        about="an instruction or a question, the chosen and the rejected answer (Axolotl, LLaMA-Factory)",
        columns="`instruction`, `input`, `chosen_response`, `rejected_response`; `question` or `input` or "
        "`instruction`, `chosen`, `rejected`; `system`, `history`",
        fits=_fits_named,
        rows=_rows_named,
        own=COMMON
        | _BESIDE
        | {"prompt", *_PROMPTS, "chosen", "rejected", "chosen_response", "rejected_response"},
    ),
    Layout(
        name="conversation-pairs",
        about="a conversation, its chosen and its rejected end (LLaMA-Factory)",
        columns="`conversations[{from, value}]`, `chosen{from, value}`, `rejected{from, value}`",
        fits=_fits_shared,
        rows=_rows_shared,
        own=COMMON | _BESIDE | {"conversations", "chosen", "rejected"},
    ),
)
