"""Rows of the contracts themselves: comparisons, demonstrations, judgments, votes, prompts and corpus texts.

Rankings may be any numbers, because means and competition ranks (1, 2, 2, 4) say the same thing as the ranks
1, 2, 2, 3 of the contract: the smallest number is best, and only equal numbers tie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from rlhf.data.contracts import (
    COMPARISON,
    CORPUS,
    DEMONSTRATION,
    JUDGMENT,
    PROMPT,
    TABLES,
    VOTE,
    Contract,
)
from rlhf.data.conversations import as_columns
from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, is_a
from rlhf.data.layouts.thumb_words import thumb
from rlhf.data.layouts.turns import turns_of
from rlhf.data.layouts.values import LABELERS, filled, is_numeral, number_of, these, who_is
from rlhf.data.rankings import dense_ranks

# What people say of texts and prompts; any other column may mean that the file is more than these.
_ABOUT = these(
    "url link timestamp date created_at updated_at title lang language license meta metadata domain subset "
    "topic category task task_type tags dataset version difficulty tokens num_tokens idx index split name"
)

# The columns of each table; a schema makes a new list of its names each time that it is asked.
_KNOWN = {name: frozenset(contract.schema.names) for name, contract in TABLES.items()}
_KNOWN["judgments"] = frozenset(JUDGMENT.schema.names)


def _fits(contract: Contract, columns: Mapping[str, str]) -> bool:
    if contract is CORPUS:
        return is_a(columns, "text", "text") and columns.keys() <= {"text", *CORPUS.schema.names, *_ABOUT}
    if contract is PROMPT:
        asked = "prompt" in columns or columns.get("messages") == "messages"
        return asked and columns.keys() <= {*PROMPT.schema.names, *_ABOUT}
    told = columns.keys() | {"prompt"} if "messages" in columns else columns.keys()
    if contract is COMPARISON and columns.get("completions") == "objects":
        return False  # answers that bring their own ranks or scores
    if contract is DEMONSTRATION and "thumb" in columns.values():
        return False  # a vote
    if contract is DEMONSTRATION and columns.keys() & {"label", "rank", "ranking", "preferred", "kto_tag"}:
        return False  # a vote, answers of which some are worse, a comparison, a judgment
    return set(contract.required) - {"labeler_id"} <= told


def _rows(
    contract: Contract, table: str, records: Sequence[Record], options: Options, notes: Notes
) -> Iterator[Item]:
    known = _KNOWN[table]
    for record in records:
        row = {name: value for name, value in record.columns.items() if name in known}
        for name in ("messages", "prompt"):
            if isinstance(row.get(name), list):
                row[name] = turns_of(row[name], record.where, notes)
        if "messages" in known:
            row = as_columns(row, ends_answered="completion" in known)
        if "labeler_id" in known:
            row["labeler_id"] = next(
                (who_is(record.columns[name]) for name in LABELERS if filled(record.columns.get(name))), None
            )
        for column in contract.required:
            if column not in row:
                if column == "completion" and row.get("messages"):
                    raise DataError(
                        "nothing answers the last message; end the messages with the assistant's, or bring a "
                        "completion"
                    )
                raise DataError(
                    f"column {column!r} is missing; a {contract.name} needs {', '.join(contract.required)}"
                )
        ranking = row.get("ranking")
        if isinstance(ranking, list):
            if all(rank is None or (isinstance(rank, str) and is_numeral(rank)) for rank in ranking):
                ranking = [rank if rank is None else number_of(rank, "ranking") for rank in ranking]
            dense = dense_ranks(ranking)
            if options.direction == "higher":
                notes.say("rankings: the highest number is best (ingest.direction)")
                row["ranking"] = dense_ranks([None if rank is None else -rank for rank in ranking])
                yield Item(table, row)
                continue
            if dense != ranking:
                notes.say(
                    f"{record.where.rsplit(':', 1)[0]}: rankings that were not 1, 2, 3 ... without gaps are "
                    f"read so, such as {ranking} as {dense}: the smallest number is best, and only equal "
                    "numbers tie"
                )
            row["ranking"] = dense
        if contract is VOTE:
            row["label"] = thumb(row["label"], "label", options, notes, record.where)
            if row["label"] is None:
                notes.pass_over("votes that ingest.words skips", record.where, record.columns["label"])
                continue
        yield Item(table, row)


def _layout(contract: Contract, table: str) -> Layout:
    return Layout(
        name=table,
        about=f"rows of the contract {contract.name}",
        columns=", ".join(f"`{name}`" for name in contract.schema.names),
        fits=partial(_fits, contract),
        rows=partial(_rows, contract, table),
        own=frozenset(contract.schema.names)
        | (set(LABELERS) if "labeler_id" in contract.schema.names else set()),
    )


LAYOUTS = (
    _layout(COMPARISON, "comparisons"),
    _layout(DEMONSTRATION, "demonstrations"),
    _layout(JUDGMENT, "judgments"),
    _layout(VOTE, "votes"),
    _layout(PROMPT, "prompts"),
    _layout(CORPUS, "corpus"),
)
