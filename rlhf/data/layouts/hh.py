"""Pairs of whole transcripts, as hh-rlhf has them (Bai et al. 2022).

Turns are paragraphs that open with "Human:" or "Assistant:". The prompt is what both transcripts begin with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, is_a, text_of
from rlhf.data.layouts.pairs import BESIDE, judged
from rlhf.data.layouts.turns import Turns, in_transcript, parted
from rlhf.data.layouts.values import COMMON


def _fits(columns: Mapping[str, str]) -> bool:
    both = is_a(columns, "chosen", "text") and is_a(columns, "rejected", "text")
    return both and "transcript" in (columns["chosen"], columns["rejected"])


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        talks = [_turns(columns.get(name), name) for name in ("chosen", "rejected")]
        yield judged(*parted(talks, notes), columns, notes)


def _turns(text: object, column: str) -> Turns:
    turns = in_transcript(text_of(text, column))
    if not turns or turns[-1]["role"] != "assistant":
        raise DataError(f"column {column!r} does not end with a paragraph that opens with 'Assistant:'")
    return turns


LAYOUT = Layout(
    name="transcripts",
    about='pairs of transcripts with "\\n\\nHuman:" and "\\n\\nAssistant:" (hh-rlhf)',
    columns="`chosen`, `rejected`",
    fits=_fits,
    rows=_rows,
    own=COMMON | BESIDE | {"chosen", "rejected", "prompt"},
)
