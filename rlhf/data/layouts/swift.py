"""ms-swift's sets: a conversation that ends with the chosen answer, and the rejected answer or a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, is_a
from rlhf.data.layouts.pairs import judged
from rlhf.data.layouts.thumb_words import thumb
from rlhf.data.layouts.turns import asked, parted, turns_of
from rlhf.data.layouts.values import COMMON, common, filled


def _fits_pairs(columns: Mapping[str, str]) -> bool:
    return is_a(columns, "messages", "messages") and bool(
        columns.keys() & {"rejected_response", "rejected_messages"}
    )


def _rows_pairs(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        chosen = _answered(columns["messages"], record, notes)
        answer = columns.get("rejected_messages")
        if filled(answer):
            rejected = _answered(answer, record, notes)
        else:
            said = columns.get("rejected_response")
            if not isinstance(said, str):
                raise DataError(
                    "there is neither rejected_response nor rejected_messages; add the rejected answer"
                )
            rejected = [*chosen[:-1], {"role": "assistant", "content": said}]
        yield judged(*parted([chosen, rejected], notes), columns, notes)


def _answered(value: object, record: Record, notes: Notes) -> list[dict[str, str]]:
    turns = turns_of(value, record.where, notes)
    if not turns or turns[-1]["role"] != "assistant":
        raise DataError("the messages do not end with the assistant's, which is the answer")
    return turns


def _fits_thumbs(columns: Mapping[str, str]) -> bool:
    more = {"completion", "chosen", "rejected", "rejected_response", "rejected_messages"}
    return columns.get("messages") == "answered" and "label" in columns and not columns.keys() & more


def _rows_thumbs(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        turns = _answered(record.columns["messages"], record, notes)
        label = thumb(record.columns.get("label"), "label", options, notes, record.where)
        if label is None:
            notes.pass_over("votes that ingest.words skips", record.where, record.columns["label"])
            continue
        vote = {"completion": turns[-1]["content"], "label": label}
        yield Item("votes", asked(turns[:-1], record.where, notes) | common(record.columns) | vote)


LAYOUTS = (
    Layout(
        name="swift-pairs",
        about="a conversation that ends with the chosen answer, and the rejected one (ms-swift)",
        columns="`messages`, `rejected_response` or `rejected_messages`; `margin`",
        fits=_fits_pairs,
        rows=_rows_pairs,
        own=COMMON | {"messages", "rejected_response", "rejected_messages", "margin"},
    ),
    Layout(
        name="labeled-conversations",
        about="a conversation that ends with an answer, and whether it is good (ms-swift, KTO)",
        columns="`messages`, `label`",
        fits=_fits_thumbs,
        rows=_rows_thumbs,
        own=COMMON | {"messages", "label"},
    ),
)
