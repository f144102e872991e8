"""Pairs of a chosen and a rejected answer, as TRL's trainers and UltraFeedback's binarised form have them.

`chosen` and `rejected` are texts or lists of messages; the prompt stands in `prompt`, or is what both lists
of messages begin with. `margin` says by how much, `score_chosen` and `score_rejected` from which scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.conversations import as_columns
from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, text_of

_COMMON = (
    "labeler_id",
    "labeler_group",
    "strength",
    "seconds",
    "guideline_version",
    "split",
    "note",
    "source",
)
_OWN = frozenset(
    (*_COMMON, "prompt", "messages", "chosen", "rejected", "margin", "score_chosen", "score_rejected", "id")
)


def _fits(columns: Mapping[str, str]) -> bool:
    return {"chosen", "rejected"} <= columns.keys() and (
        "prompt" in columns or columns["chosen"] == columns["rejected"] == "messages"
    )


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        asked, answers = _asked(columns)
        scores: list[Any] = [columns.get("score_chosen"), columns.get("score_rejected")]
        tied = None not in scores and scores[0] == scores[1]
        row = {name: columns[name] for name in _COMMON if columns.get(name) is not None}
        yield Item(
            "comparisons",
            as_columns(asked, ends_answered=False)
            | row
            | {
                "completions": answers,
                # Equal scores are a tie, whatever the columns are called: only a coin chose between them.
                "ranking": [1, 1] if tied else [1, 2],
                "scores": None if None in scores else [float(score) for score in scores],
                "margin": columns.get("margin"),
            },
        )


def _asked(columns: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The prompt, as text or messages, and the two answers."""
    chosen, rejected = columns["chosen"], columns["rejected"]
    if isinstance(chosen, str):
        return {"prompt": columns["prompt"]}, [chosen, text_of(rejected, "rejected")]
    if not (isinstance(chosen, list) and isinstance(rejected, list) and chosen and rejected):
        raise DataError(
            f"chosen is {ascii(chosen)[:40]}, rejected {ascii(rejected)[:40]}; write two texts or messages"
        )
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if len(chosen) != shared + 1 or len(rejected) != shared + 1:
        raise DataError("chosen and rejected differ before their last message; both must answer one prompt")
    ends = [chosen[-1], rejected[-1]]
    turns: Any = chosen[:shared]
    if not turns:
        turns = columns.get("messages") or columns.get("prompt")
        if not turns:
            raise DataError("chosen and rejected have no turn in common and there is no prompt; add one")
    if any(end.get("role") != "assistant" for end in ends):
        raise DataError("chosen and rejected must end with the assistant's message")
    key = "messages" if isinstance(turns, list) else "prompt"
    return {key: turns}, [text_of(end.get("content"), "content") for end in ends]


LAYOUT = Layout(
    name="pairs",
    about="a prompt, the chosen and the rejected answer (TRL, UltraFeedback binarised)",
    columns="prompt, chosen, rejected; or chosen, rejected as messages; margin, score_chosen, score_rejected",
    fits=_fits,
    rows=_rows,
    own=_OWN | {"prompt_id"},
)
