"""Demonstrations as conversations that end with the assistant's turn: OpenAI's and TRL's `messages`, and the
`conversations` of ShareGPT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record
from rlhf.data.layouts.turns import asked, turns_of
from rlhf.data.layouts.values import common, these

_TURNS = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog")

# With any of these, the file says more of the answers than that they are there.
_PREFERRED = these(
    "chosen rejected rejected_response rejected_messages completion completions ranking rankings winner "
    "choice preferred preference verdict label labels kto_tag thumb thumbs thumbs_up vote liked is_good "
    "good feedback better response1 judgment"
)


def _fits(columns: Mapping[str, str]) -> bool:
    if columns.keys() & _PREFERRED or "thumb" in columns.values():
        return False
    return len([name for name in _TURNS if columns.get(name) == "answered"]) == 1


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        name = next(name for name in _TURNS if columns.get(name) is not None)
        turns = turns_of(columns[name], record.where, notes)
        if not turns or turns[-1]["role"] != "assistant":
            raise DataError(
                "nothing answers the last message; end with the assistant's, or leave such rows out by "
                "ingest.unreadable: quarantine"
            )
        row = common(columns)
        kept = {key: row[key] for key in ("split", "source") if key in row}
        answer = {"completion": turns[-1]["content"], "writer_id": columns.get("writer_id")}
        system = columns.get("system") if turns[0]["role"] != "system" else None
        yield Item("demonstrations", asked(turns[:-1], record.where, notes, system, name) | kept | answer)


LAYOUT = Layout(
    name="conversations",
    about="conversations that end with an answer (OpenAI and TRL messages, ShareGPT)",
    columns="`messages[{role, content}]`, or `conversations[{from, value}]`; `system`",
    fits=_fits,
    rows=_rows,
    # A prompt beside turns is their first, or their topic: the turns say what was asked.
    own=frozenset((*_TURNS, "prompt", "system", "writer_id", "split", "source")),
)
