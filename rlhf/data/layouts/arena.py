"""Battles of two models (Chatbot Arena; Zheng et al. 2023): two conversations and the winner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record
from rlhf.data.layouts.turns import parted, turns_of
from rlhf.data.layouts.values import COMMON, common, comparison, filled

_RANKINGS = {
    "model_a": ([1, 2], None),
    "a": ([1, 2], None),
    "model_b": ([2, 1], None),
    "b": ([2, 1], None),
    "tie": ([1, 1], False),
    "tie (bothbad)": ([1, 1], True),
    "bothbad": ([1, 1], True),
    "both_bad": ([1, 1], True),
    "both bad": ([1, 1], True),
}


def _fits(columns: Mapping[str, str]) -> bool:
    return {"conversation_a", "conversation_b", "winner"} <= columns.keys()


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        winner = columns.get("winner")
        if not filled(winner):
            notes.pass_over("battles without a winner", record.where)
            continue
        models = [str(columns.get(f"model_{side}") or "") for side in "ab"]
        word = str(winner).strip().lower()
        if word not in _RANKINGS and winner in models and models[0] != models[1]:
            word = "ab"[models.index(winner)]
        if word not in _RANKINGS:
            raise DataError(f"winner is {ascii(winner)[:40]}; known are model_a, model_b, tie, tie (bothbad)")
        ranking, bad = _RANKINGS[word]
        talks = [turns_of(columns.get(f"conversation_{side}"), record.where, notes) for side in "ab"]
        if any(not talk or talk[-1]["role"] != "assistant" for talk in talks):
            raise DataError("a conversation does not end with the assistant's turn")
        prompt, answers = parted(talks, notes)
        yield comparison(
            prompt,
            answers,
            ranking=ranking,
            both_bad=bad,
            policies=models if any(models) else None,
            **common(columns),
        )


LAYOUT = Layout(
    name="arena",
    about="two conversations of two models and the winner (Chatbot Arena); ties and both bad are kept",
    columns="`conversation_a`, `conversation_b`, `winner`, `model_a`, `model_b`, `judge`",
    fits=_fits,
    rows=_rows,
    own=COMMON | {"conversation_a", "conversation_b", "winner", "model_a", "model_b"},
)
