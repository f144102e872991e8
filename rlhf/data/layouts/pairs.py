"""Pairs of a chosen and a rejected answer, as TRL's trainers and UltraFeedback's binarised form have them.

`chosen` and `rejected` are texts or lists of messages; the prompt stands in `prompt`, or is what both begin
with. `margin` says by how much, `score_chosen` and `score_rejected` from which scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.instructions import INPUTS, with_context
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, is_a, text_of
from rlhf.data.layouts.turns import asked, in_transcript, parted, turns_of
from rlhf.data.layouts.values import COMMON, common, comparison, filled, number_of

_SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
_MODELS = (
    ("chosen_model", "rejected_model"),
    ("chosen-model", "rejected-model"),
    ("chosen_policy", "rejected_policy"),
)
# What a pair may say of itself, under each of its names.
BESIDE = frozenset(("margin", *(name for pair in (*_SCORES, *_MODELS) for name in pair)))
_OTHER_PROMPTS = {"instruction", "question", "input", "conversations", "context", "history", "query"}


def _fits(columns: Mapping[str, str]) -> bool:
    if not {"chosen", "rejected"} <= columns.keys() or "transcript" in (
        columns["chosen"],
        columns["rejected"],
    ):
        return False
    both = [is_a(columns, name, kind) for kind in ("text", "messages") for name in ("chosen", "rejected")]
    if not (all(both[:2]) or all(both[2:]) or _objects(columns)):
        return False
    if "prompt" in columns or is_a(columns, "messages", "messages"):
        return True
    if all(both[2:]):
        return "conversations" not in columns  # the prompt is what both begin with, whatever else is there
    return not _objects(columns) and not columns.keys() & _OTHER_PROMPTS


def _objects(columns: Mapping[str, str]) -> bool:
    return columns["chosen"] == columns["rejected"] == "object"


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        prompt, answers = _asked(record, notes)
        yield judged(prompt, answers, columns, notes)


def judged(
    prompt: Mapping[str, Any], answers: Sequence[str], columns: Mapping[str, Any], notes: Notes
) -> Item:
    """The comparison of a chosen and a rejected answer, with the margin and the scores of its columns."""
    names = next((pair for pair in _SCORES if set(pair) <= columns.keys()), ())
    scores: list[Any] = [columns[name] for name in names]
    known = bool(names) and all(map(filled, scores))
    scores = [number_of(score, name) for score, name in zip(scores, names, strict=True)] if known else []
    models = next(([columns[a], columns[b]] for a, b in _MODELS if {a, b} <= columns.keys()), [])
    if known and scores[0] == scores[1]:
        # Only a coin chose between equal scores, whatever the columns are called.
        notes.say(f"pairs with equal {' and '.join(names)} are read as ties")
    margin = columns.get("margin")
    if filled(margin) and number_of(margin, "margin") < 0:
        notes.say(
            "some margins are below 0, as if the rejected answer were the better; the names are believed"
        )
    return comparison(
        prompt,
        answers,
        ranking=[1, 1] if known and scores[0] == scores[1] else [1, 2],
        scores=scores or None,
        margin=number_of(margin, "margin") if filled(margin) else None,
        policies=[str(model) for model in models] if all(map(filled, models)) and models else None,
        **common(columns),
    )


def _asked(record: Record, notes: Notes) -> tuple[dict[str, Any], list[str]]:
    """The prompt, as text or messages, and the two answers."""
    columns = record.columns
    chosen, rejected = _said(columns.get("chosen")), _said(columns.get("rejected"))
    outer = columns.get("prompt") if columns.get("prompt") not in (None, "", []) else columns.get("messages")
    if isinstance(chosen, str) or isinstance(rejected, str):
        answers = [text_of(chosen, "chosen"), text_of(rejected, "rejected")]
        if outer is None and "prompt" in columns:
            raise DataError("the prompt is empty; write it, or leave the row out")
        if outer is None:
            return _common_start(*answers)
        return prompted(outer, record, notes, columns.get("system")), answers
    if not chosen or not rejected:
        raise DataError(
            f"chosen is {ascii(chosen)[:40]}, rejected {ascii(rejected)[:40]}; write two texts or messages"
        )
    talks = [turns_of(chosen, record.where, notes), turns_of(rejected, record.where, notes)]
    if any(len(talk) > 1 and talk[0]["role"] != "assistant" for talk in talks):
        if isinstance(outer, list):  # TRL joins a prompt of messages with what follows it
            front = turns_of(outer, record.where, notes)
            talks = [talk if talk[:1] == front[:1] else [*front, *talk] for talk in talks]
        return parted(talks, notes)
    if outer is None:
        raise DataError("chosen and rejected have no turn in common and there is no prompt; add one")
    if any(talk[-1]["role"] != "assistant" for talk in talks):
        raise DataError("chosen and rejected must end with the assistant's message")
    if isinstance(outer, list):
        front = turns_of(outer, record.where, notes)
        return parted([[*front, *talk] for talk in talks], notes)
    return parted([[{"role": "user", "content": text_of(outer, "prompt")}, *talk] for talk in talks], notes)


def _said(answer: Any) -> Any:
    """An answer that is an object with a text alone, as that text."""
    if isinstance(answer, Mapping) and not {"role", "from"} & answer.keys():
        texts = [answer[name] for name in ("text", "content", "response", "answer") if name in answer]
        return texts[0] if len(texts) == 1 else answer
    return answer


def prompted(
    prompt: Any, record: Record, notes: Notes, system: Any = None, name: str = "prompt"
) -> dict[str, Any]:
    """The columns of a prompt that may be a text, turns, or a transcript that ends with `Assistant:`; what a
    text is about, such as a context, goes with it."""
    if isinstance(prompt, str) and prompt.rstrip().endswith("Assistant:"):
        turns = in_transcript(prompt)
        if turns and turns[0]["role"] != "assistant" and not turns[-1]["content"].strip():
            turns = [turn | {"content": turn["content"].strip()} for turn in turns[:-1]]
            notes.say('prompts with "Human:" and "Assistant:" are read as turns')
            return asked(turns, record.where, notes, system)
    return asked(with_context(name, prompt, record.columns, notes), record.where, notes, system, name)


def _common_start(chosen: str, rejected: str) -> tuple[dict[str, Any], list[str]]:
    """What two texts begin with, up to a space, as the prompt."""
    end = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), -1)
    end = min(len(chosen), len(rejected)) if end < 0 else end
    end = max(chosen.rfind(" ", 0, end), chosen.rfind("\n", 0, end))
    if end <= 0:
        raise DataError(
            "there is no prompt, and chosen and rejected do not begin alike; name the prompt's column in "
            "ingest.columns"
        )
    return {"prompt": chosen[:end]}, [chosen[end:], rejected[end:]]


LAYOUT = Layout(
    name="pairs",
    about="a prompt, the chosen and the rejected answer (TRL, UltraFeedback binarised); texts or messages",
    columns="`prompt`, `chosen`, `rejected`; or the last two, which begin with the prompt; `margin`, "
    "`score_chosen`, `score_rejected`",
    fits=_fits,
    rows=_rows,
    own=COMMON | BESIDE | {"prompt", "messages", "system", "chosen", "rejected", *INPUTS},
)
