"""Battles of two models (Chatbot Arena; Zheng et al. 2023): two conversations and the winner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.formats.json_files import value_of
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, is_a
from rlhf.data.layouts.turns import Turns, parted, turns_of
from rlhf.data.layouts.values import COMMON, common, comparison, filled
from rlhf.data.layouts.verdict_words import Answers, plain
from rlhf.data.layouts.verdicts import verdict


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
        told = verdict(winner, "winner", Answers(("model_a", "model_b"), ("a", "b"), models), options)
        if told.ranking is None:
            notes.pass_over("battles that ingest.words skips", record.where, winner)
            continue
        talks = [turns_of(columns.get(f"conversation_{side}"), record.where, notes) for side in "ab"]
        if any(not talk or talk[-1]["role"] != "assistant" for talk in talks):
            raise DataError("a conversation does not end with the assistant's turn")
        talks = [_judged(talk, columns.get("turn"), notes) for talk in talks]
        prompt, answers = parted(talks, notes)
        yield comparison(
            prompt,
            answers,
            ranking=told.ranking,
            both_bad=told.both_bad,
            policies=models if any(models) else None,
            **common(columns),
        )


def _judged(talk: Turns, turn: Any, notes: Notes) -> Turns:
    """The conversation up to the answer that was judged; `turn` counts the answers."""
    ends = [place for place, said in enumerate(talk, start=1) if said["role"] == "assistant"]
    if isinstance(turn, bool) or not isinstance(turn, (int, float)) or not 1 <= turn < len(ends):
        return talk
    notes.say("battles are read up to the answer that column 'turn' says was judged")
    return talk[: ends[int(turn) - 1]]


def _fits_flags(columns: Mapping[str, str]) -> bool:
    texts = all(is_a(columns, name, "text|texts") for name in ("prompt", "response_a", "response_b"))
    return texts and {"winner_model_a", "winner_model_b"} <= columns.keys()


def _rows_flags(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        sides = [_said(columns.get(name), name) for name in ("prompt", "response_a", "response_b")]
        asked, *answered = sides
        talks = [
            [turn for pair in zip(asked, side, strict=False) for turn in _exchange(*pair)]
            for side in answered
        ]
        if any(len(side) != len(asked) for side in answered):
            raise DataError("prompt, response_a and response_b must have as many turns as each other")
        won = [plain(columns.get(f"winner_model_{side}")) in ("1", "true") for side in "ab"]
        if all(won):
            raise DataError("both winner_model_a and winner_model_b are set; one of them can be")
        if not any(won) and plain(columns.get("winner_tie", 1)) not in ("1", "true"):
            notes.pass_over("battles without a winner", record.where)
            continue
        models = [str(columns.get(f"model_{side}") or "") for side in "ab"]
        prompt, answers = parted(talks, notes)
        yield comparison(
            prompt,
            answers,
            ranking=[1, 1] if not any(won) else [1, 2] if won[0] else [2, 1],
            both_bad=None if any(won) else False,
            policies=models if any(models) else None,
            **common(columns),
        )


def _said(value: Any, column: str) -> list[str]:
    """The turns of one side: a list of texts, as JSON in a cell, or a single text."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = value_of(value)
        except DataError:
            value = [value]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(text is None or isinstance(text, str) for text in texts):
        raise DataError(f"column {column!r} is {ascii(value)[:40]}; it must be a text or a list of texts")
    return [text or "" for text in texts]


def _exchange(asked: str, answer: str) -> Turns:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


LAYOUT = Layout(
    name="arena",
    about="two conversations of two models and the winner (Chatbot Arena); ties and both bad are kept",
    columns="`conversation_a`, `conversation_b`, `winner`, `model_a`, `model_b`, `judge`",
    fits=_fits,
    rows=_rows,
    own=COMMON | {"conversation_a", "conversation_b", "winner", "model_a", "model_b", "turn"},
)
FLAGS = Layout(
    name="arena-flags",
    about="a prompt, two responses and a flag for the winner (LMSYS preference sets)",
    columns="`prompt`, `response_a`, `response_b`, `winner_model_a`, `winner_model_b`, `winner_tie`, "
    "`model_a`, `model_b`",
    fits=_fits_flags,
    rows=_rows_flags,
    own=COMMON
    | {"prompt", *(f"{name}_{side}" for name in ("response", "model", "winner_model") for side in "ab")}
    | {"winner_tie"},
)
