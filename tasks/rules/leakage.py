"""Rules about what is held out: no other row may hold a test prompt, and none should hold its reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from rlhf.data.columns import values_of
from rlhf.data.held_out import LEAST, Runs
from tasks.rules.rule import ANSWERS, TEXTS, Mask, Rule
from tasks.rules.view import Batch, Numbers, View, numpy, text_hashes

_WORDS = 12  # from which a reference is not met by chance


def _trained(batch: Batch) -> Numbers:
    """The rows that are not held out."""
    return ~numpy(pc.fill_null(pc.equal(batch["split"], "test"), False))


def _test_prompts(view: View) -> Runs:
    """The prompts of split `test` in all tables, kept with the views because each table asks for them."""
    home = next(iter(view.beside.values())).__dict__
    if "test_prompts" not in home:
        held_out: dict[str, None] = {}
        for other in view.beside.values():
            if other.name in TEXTS:
                for batch in other.batches(["prompt", "split"]):
                    prompts = values_of(batch["prompt"].filter(pc.equal(batch["split"], "test")))
                    held_out.update(dict.fromkeys(filter(None, prompts)))
        home["test_prompts"] = Runs(held_out)
    return home["test_prompts"]


def _holds_prompt(view: View, _: Any) -> Mask:
    runs, parts = _test_prompts(view), [np.zeros(0, bool)]
    for batch in view.batches(["prompt", "split"]):
        trained = _trained(batch)
        held = np.zeros(batch.size, bool)
        texts = [text or "" for text in batch.prompt_texts]
        numbers = np.flatnonzero(trained)
        held[numbers] = runs.within([texts[number] for number in numbers])
        parts.append(held)
    return np.concatenate(parts)


def _plain(texts: Any) -> Numbers:
    return text_hashes(pc.utf8_lower(pc.utf8_trim_whitespace(texts)))


def _references(view: View) -> Numbers:
    """Hashes of the references of test prompts that are too long to be met by chance."""
    home = view.beside.get("demonstrations")
    if home is None:
        return np.zeros(0, np.uint64)
    if "references" not in home.__dict__:
        parts = [np.zeros(0, np.uint64)]
        for batch in home.batches(["completion", "split"]):
            texts = batch["completion"].filter(pc.equal(batch["split"], "test")).drop_null()
            words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts)))
            parts.append(_plain(texts.filter(pc.greater_equal(words, _WORDS))))
        home.__dict__["references"] = np.unique(np.concatenate(parts))
    return home.__dict__["references"]


def _holds_reference(view: View, _: Any) -> Mask:
    references, parts = _references(view), [np.zeros(0, bool)]
    column = "completions" if view.name == "comparisons" else "completion"
    for batch in view.batches([column, "split"]):
        told = np.isin(_plain(batch.answers.values), references)
        parts.append(_trained(batch) & batch.of_rows(batch.answers, told))
    return np.concatenate(parts)


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
        "leaked_reference",
        ANSWERS,
        f"no answer beside those of split test is the reference of a test prompt (of {_WORDS} words or more)",
        "what a policy was trained to say word for word is no sign of what it has learnt",
        "leave the row out, or set validate.rules to {leaked_reference: quarantine}",
        severity="warn",
        show=("completion", "completions"),
        rows=_holds_reference,
    ),
)
