"""Rules about what is held out: no other row may hold a test prompt, and none should hold its reference.

Texts are compared as runs of words, whatever their case, punctuation and white space (`rlhf/data/held_out.py`),
so that a reference within a longer answer is met as well. Texts of the corpus that give something away are
dropped by the stage `prepare`, which counts them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from rlhf.data.columns import values_of
from rlhf.data.held_out import LEAST, Runs
from rlhf.data.near_duplicates import words_of
from tasks.rules.rule import ANSWERS, TEXTS, Mask, Rule
from tasks.rules.view import Batch, Numbers, View, numpy

_WORDS = 12  # from which a reference is not met by chance
_PROMPT, _REFERENCE = 0, 1  # the groups of what is held out


def _trained(batch: Batch) -> Numbers:
    """The rows that are not held out."""
    return ~numpy(pc.fill_null(pc.equal(batch["split"], "test"), False))


def _of_test(view: View, column: str) -> dict[str, None]:
    """The different texts that a column has in split `test`."""
    texts: dict[str, None] = {}
    for batch in view.batches([column, "split"]):
        texts.update(dict.fromkeys(values_of(batch[column].filter(pc.equal(batch["split"], "test")))))
    return texts


def _held_out(view: View) -> Runs:
    """The prompts of split `test` in all tables and their references, kept because each table asks for them."""
    home = next(iter(view.beside.values())).__dict__
    if "held_out" not in home:
        prompts: dict[str, None] = {}
        for other in view.beside.values():
            if other.name in TEXTS:
                prompts |= _of_test(other, "prompt")
        demonstrations = view.beside.get("demonstrations")
        references = _of_test(demonstrations, "completion") if demonstrations else {}
        home["held_out"] = Runs(
            filter(None, prompts),
            (text for text in references if text and len(words_of(text)) >= _WORDS),
        )
    return home["held_out"]


def _holds_prompt(view: View, _: Any) -> Mask:
    runs, parts = _held_out(view), [np.zeros(0, bool)]
    for batch in view.batches(["prompt", "messages", "split"]):
        trained = np.flatnonzero(_trained(batch))
        held = np.zeros(batch.size, bool)
        held[trained] = runs.which_within([batch.prompt_texts[row] or "" for row in trained])[:, _PROMPT]
        turns, rows = batch.contents
        # Turns that the prompt cannot tell in full, since they are longer than it is.
        told = np.bincount(rows, numpy(pc.fill_null(pc.utf8_length(turns), 0)), minlength=batch.size)
        untold = told > numpy(pc.fill_null(pc.utf8_length(batch["prompt"]), 0))
        some = np.flatnonzero((untold & _trained(batch))[rows])
        texts = [text or "" for text in values_of(turns.take(some))]
        held[rows[some][runs.which_within(texts)[:, _PROMPT]]] = True
        parts.append(held)
    return np.concatenate(parts)


def _held_by_answers(view: View) -> Numbers:
    """Which rows beside those of split `test` have an answer that holds a held-out text: [rows, groups].

    The result is kept on the view, because two rules ask for it.
    """
    if "held_by_answers" not in view.__dict__:
        runs, parts = _held_out(view), [np.zeros((0, 2), bool)]
        column = "completions" if view.name == "comparisons" else "completion"
        for batch in view.batches([column, "split"]):
            rows = batch.answers.rows
            some = np.flatnonzero(_trained(batch)[rows])
            held = np.zeros((batch.size, 2), bool)
            texts = batch.answer_texts
            np.logical_or.at(held, rows[some], runs.which_within([texts[i] or "" for i in some]))
            parts.append(held)
        view.__dict__["held_by_answers"] = np.concatenate(parts)
    return view.__dict__["held_by_answers"]


RULES = (
    Rule(
        "leaked_prompt",
        TEXTS,
        f"no prompt beside those of split test holds a test prompt (of {LEAST} words or more)",
        "an evaluation on a prompt that was trained on measures memory",
        "leave the row out, give it split test, or set validate.rules to {leaked_prompt: quarantine}",
        show=("prompt",),
        rows=_holds_prompt,
    ),
    Rule(
        "leaked_prompt_in_answer",
        ANSWERS,
        f"no answer beside those of split test holds a test prompt (of {LEAST} words or more)",
        "what was trained on as an answer is as well known as what was trained on as a prompt",
        "leave the row out, or set validate.rules to {leaked_prompt_in_answer: quarantine}",
        severity="warn",
        show=("completion", "completions"),
        rows=lambda view, _: _held_by_answers(view)[:, _PROMPT],
    ),
    Rule(
        "leaked_reference",
        ANSWERS,
        f"no answer beside those of split test holds the reference of a test prompt (of {_WORDS} words or more)",
        "what a policy was trained to say word for word is no sign of what it has learnt",
        "leave the row out, or set validate.rules to {leaked_reference: quarantine}",
        severity="warn",
        show=("completion", "completions"),
        rows=lambda view, _: _held_by_answers(view)[:, _REFERENCE],
    ),
)
