"""Rules about what is held out: no other row may hold a test prompt, and none should hold its reference.

Texts are compared as runs of words, whatever their case, punctuation and white space
(`rlhf/data/held_out.py`), so that a reference within a longer answer is met as well. Texts of the corpus that
give something away are dropped by the stage `prepare`, which counts them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.columns import values_of
from rlhf.data.held_out import LEAST, Runs, without_frame
from rlhf.data.near_held_out import NearTexts
from rlhf.data.sieve import Sieve
from rlhf.data.word_hashes import words_of
from tasks.rules.rule import ANSWERS, TEXTS, Mask, Rule
from tasks.rules.view import PROMPTS, Batch, Numbers, View, numpy

_WORDS = 12  # from which a reference is not met by chance
# The groups of what is held out. An answer need not hold what frames all prompts.
_PROMPT, _BARE_PROMPT, _REFERENCE, _NEAR_REFERENCE = range(4)
_GROUPS = 4
NEAR = 0.85  # the share of words in common from which two texts are near-duplicates


def _trained(batch: Batch) -> Numbers:
    """The rows that are not held out."""
    return ~numpy(pc.fill_null(pc.equal(batch["split"], "test"), False))


def _of_test(view: View, column: str) -> dict[str, None]:
    """The different texts that a column has in split `test`."""
    texts: dict[str, None] = {}
    for batch in view.batches([column, "split"]):
        texts.update(dict.fromkeys(values_of(batch[column].filter(pc.equal(batch["split"], "test")))))
    return texts


class _HeldOut(NamedTuple):
    """The prompts of split `test` in all tables and their references.

    Attributes:
        runs: both, as runs of words within other texts.
        references: the references, for what is nearly the same.
        sieve: lets through what may hold or be either.
    """

    runs: Runs
    references: NearTexts
    sieve: Sieve


def _held_out(view: View) -> _HeldOut:
    """What is held out, kept because each table asks for it."""
    home = next(iter(view.beside.values())).__dict__
    if "held_out" not in home:
        prompts: dict[str, None] = {}
        for other in view.beside.values():
            if other.name in TEXTS:
                prompts |= _of_test(other, "prompt")
        asked = [text for text in prompts if text]
        demonstrations = view.beside.get("demonstrations")
        told = _of_test(demonstrations, "completion") if demonstrations else {}
        references = [text for text in told if text and len(words_of(text)) >= _WORDS]
        runs, near = Runs(asked, without_frame(asked), references), NearTexts(references, NEAR)
        home["held_out"] = _HeldOut(runs, near, Sieve([*runs.runs, *near.runs]))
    return home["held_out"]


def _holds_prompt(view: View, _: Any) -> Mask:
    """Rows beside those of split `test` whose prompt holds a test prompt. Each different prompt is looked at
    once, in the first table that has it: which are met already, and which of them hold one, is kept."""
    runs, home = _held_out(view).runs, next(iter(view.beside.values())).__dict__
    met, holding = home.get("prompts_met", (np.zeros(0, np.uint64), np.zeros(0, np.uint64)))
    trained = ~numpy(pc.fill_null(pc.equal(view.column("split"), "test"), False))
    rows = np.flatnonzero(trained)
    known = pd.Series(np.concatenate([met, view.prompts[rows]])).duplicated().to_numpy()[len(met) :]
    new, parts, at = np.zeros(view.size, bool), [holding], 0
    new[rows[~known]] = True
    held = np.zeros(view.size, bool)
    for batch in view.batches(["prompt", "messages"]):
        here = slice(at, at + batch.size)
        asked = at + np.flatnonzero(new[here])
        holds = runs.which_within(batch["prompt"].filter(pa.array(new[here])))[:, _PROMPT]
        parts.append(view.prompts[asked[holds]])
        turns, of_rows = batch.contents
        # Turns that the prompt cannot tell in full, since they are longer than it is.
        told = np.bincount(of_rows, numpy(pc.fill_null(pc.utf8_length(turns), 0)), minlength=batch.size)
        untold = told > numpy(pc.fill_null(pc.utf8_length(batch["prompt"]), 0))
        some = np.flatnonzero((untold & trained[here])[of_rows])
        held[at + of_rows[some][runs.which_within(turns.take(pa.array(some)))[:, _PROMPT]]] = True
        at += batch.size
    holding = np.concatenate(parts)
    home["prompts_met"] = np.concatenate([met, view.prompts[new]]), holding
    return held | trained & np.isin(view.prompts, holding)


def _held_by_answers(view: View) -> Numbers:
    """Which rows beside those of split `test` have an answer that holds a held-out text: [rows, groups].

    The result is kept on the view, because several rules ask for it.
    """
    if "held_by_answers" not in view.__dict__:
        held_out, parts = _held_out(view), [np.zeros((0, _GROUPS), bool)]
        column = "completions" if view.name == "comparisons" else "completion"
        for batch in view.batches([column, "split"]):
            rows = batch.answers.rows
            some = np.flatnonzero(_trained(batch)[rows])
            answers = pc.fill_null(batch.answers.values.take(pa.array(some)), "")
            through = np.flatnonzero(held_out.sieve.lets_through(answers))
            texts = values_of(answers.take(pa.array(through)))
            told = np.zeros((len(texts), _GROUPS), bool)
            told[:, :_NEAR_REFERENCE] = held_out.runs.which_within(texts)
            told[:, _NEAR_REFERENCE] = held_out.references.near(texts) & ~told[:, _REFERENCE]
            held = np.zeros((batch.size, _GROUPS), bool)
            np.logical_or.at(held, rows[some[through]], told)
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
        needs=(PROMPTS,),
    ),
    Rule(
        "leaked_prompt_in_answer",
        ANSWERS,
        f"no answer beside those of split test holds a test prompt (of {LEAST} words or more)",
        "what was trained on as an answer is as well known as what was trained on as a prompt",
        "leave the row out, or set validate.rules to {leaked_prompt_in_answer: quarantine}",
        severity="warn",
        show=("completion", "completions"),
        rows=lambda view, _: _held_by_answers(view)[:, _BARE_PROMPT],
    ),
    Rule(
        "leaked_reference",
        ANSWERS,
        "no answer beside those of split test holds the reference of a test prompt (of "
        f"{_WORDS} words or more)",
        "what a policy was trained to say word for word is no sign of what it has learnt",
        "leave the row out, or set validate.rules to {leaked_reference: quarantine}",
        severity="warn",
        show=("completion", "completions"),
        rows=lambda view, _: _held_by_answers(view)[:, _REFERENCE],
    ),
    Rule(
        "near_reference",
        ANSWERS,
        f"no answer beside those of split test has {NEAR:.0%} or more of its words in common with the "
        f"reference of a test prompt (of {_WORDS} words or more)",
        "a reference that was trained on with a word changed was trained on",
        "leave the row out, or set validate.rules to {near_reference: quarantine}",
        severity="warn",
        show=("completion", "completions"),
        rows=lambda view, _: _held_by_answers(view)[:, _NEAR_REFERENCE],
    ),
)
