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
    VOTE,
    Contract,
)
from rlhf.data.conversations import as_columns
from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record
from rlhf.data.rankings import dense_ranks


def _fits(contract: Contract, columns: Mapping[str, str]) -> bool:
    if contract is CORPUS:
        return columns.keys() <= {"text", "source", "id", "extra"} and "text" in columns
    if contract is PROMPT:
        return bool(columns.keys() & {"prompt", "messages"}) and columns.keys() <= set(PROMPT.schema.names)
    told = columns.keys() | {"prompt"} if "messages" in columns else set(columns)
    if contract is DEMONSTRATION and columns.get("label") in ("bool", "number", "text"):
        return False  # a vote
    return (set(contract.required) <= told and contract is not VOTE) or (
        contract is VOTE and set(VOTE.required) <= told
    )


def _rows(
    contract: Contract, table: str, records: Sequence[Record], options: Options, notes: Notes
) -> Iterator[Item]:
    for record in records:
        row = {name: value for name, value in record.columns.items() if name in contract.schema.names}
        if "messages" in contract.schema.names:
            row = as_columns(row, ends_answered="completion" in contract.schema.names)
        for column in contract.required:
            if column not in row:
                raise DataError(
                    f"column {column!r} is missing; a {contract.name} needs {', '.join(contract.required)}"
                )
        ranking = row.get("ranking")
        if isinstance(ranking, list):
            dense = dense_ranks(ranking)
            if dense != ranking:
                notes.say(
                    f"{record.where.rsplit(':', 1)[0]}: rankings that were not 1, 2, 3 ... without gaps are "
                    f"read so, such as {ranking} as {dense}: the smallest number is best, and only equal "
                    "numbers tie"
                )
            row["ranking"] = dense
        yield Item(table, row)


def _layout(contract: Contract, table: str) -> Layout:
    return Layout(
        name=table,
        about=f"rows of the contract {contract.name}",
        columns=", ".join(contract.schema.names),
        fits=partial(_fits, contract),
        rows=partial(_rows, contract, table),
        own=frozenset(contract.schema.names),
    )


LAYOUTS = (
    _layout(COMPARISON, "comparisons"),
    _layout(DEMONSTRATION, "demonstrations"),
    _layout(JUDGMENT, "judgments"),
    _layout(VOTE, "votes"),
    _layout(PROMPT, "prompts"),
    _layout(CORPUS, "corpus"),
)
