"""Rules about what texts say: encoding damage, personal data, answers that say something again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ftfy.badness import is_bad

from rlhf.data.columns import values_of
from tasks.rules import personal_data
from tasks.rules.rule import ANSWERS, TEXTS, Mask, Rule
from tasks.rules.view import Batch, View, numpy

_TAIL = 24  # characters of the end of a text that a loop would have said before
_CONTAINED = 40  # characters from which a prompt in its answer is no accident


def _damaged(batch: Batch, _: Any) -> Mask:
    """Rows with text that was decoded by another encoding than it was written in, such as `cafÃ©`."""
    broken = np.zeros(batch.size, bool)
    for _name, flat in batch.texts:
        wide = pc.fill_null(pc.greater(pc.binary_length(flat.values), pc.utf8_length(flat.values)), False)
        for number in np.flatnonzero(numpy(wide)):  # text of ASCII alone is never damaged
            if not broken[flat.rows[number]] and is_bad(flat.values[int(number)].as_py()):
                broken[flat.rows[number]] = True
    return broken


def _first(view: View, number: int, wanted: Any) -> tuple[str, str]:
    """The column and the text of a row that break a rule about texts."""
    batch = Batch(view.contract, pa.RecordBatch.from_pylist([view.row(number)], view.contract.schema))
    for name, flat in batch.texts:
        for text in flat.values.to_pylist():
            if text is not None and wanted(text):
                return name, text
    return "", ""


def _show_damage(view: View, number: int) -> str:
    from ftfy.badness import BADNESS_RE

    column, text = _first(view, number, is_bad)
    match = BADNESS_RE.search(text)
    start = max(0, match.start() - 15) if match else 0
    return f"{column} {text[start : start + 40]!a}"


def _personal(batch: Batch, _: Any) -> Mask:
    broken = np.zeros(batch.size, bool)
    for _name, flat in batch.texts:
        broken |= batch.of_rows(flat, personal_data.holds_some(flat.values))
    return broken


def _show_personal(view: View, number: int) -> str:
    column, text = _first(view, number, personal_data.parts)
    return f"{column}: {personal_data.shown(text)}"


def _looping(batch: Batch, most: float) -> Mask:
    """Rows with an answer whose last characters it has said more often than the threshold allows."""
    texts = batch.answer_texts
    looping = np.array(
        [text is not None and len(text) > _TAIL * 2 and text.count(text[-_TAIL:]) > most for text in texts],
        bool,
    )
    return batch.of_rows(batch.answers, looping)


def _tells_the_prompt(batch: Batch, _: Any) -> Mask:
    answers, rows = batch.answers
    asks, says = (numpy(pc.fill_null(pc.binary_length(texts), 0)) for texts in (batch["prompt"], answers))
    # Most prompts are longer than their answers.
    some = np.flatnonzero((asks[rows] >= _CONTAINED) & (asks[rows] <= says))
    prompts = values_of(batch["prompt"].take(pa.array(rows[some])))
    told = [
        len(asked) >= _CONTAINED and asked in text
        for asked, text in zip(prompts, values_of(answers.take(pa.array(some))), strict=True)
    ]
    return batch.of_rows(batch.answers, some[np.array(told, bool)])


RULES = (
    Rule(
        "encoding",
        (*TEXTS, "corpus"),
        "texts are not damaged by a wrong encoding",
        "a model learns to write what it reads: \u201ccafÃ©\u201d for \u201ccafé\u201d",
        "read the file in the encoding that it was written in, and save it as UTF-8",
        severity="warn",
        show=_show_damage,
        batch=_damaged,
    ),
    Rule(
        "personal_data",
        (*TEXTS, "corpus"),
        "texts hold no e-mail or IP address, phone or card number, IBAN or key",
        "a model may say word for word what it was trained on",
        "take it out, or replace it with something of that form that belongs to nobody",
        severity="warn",
        show=_show_personal,
        batch=_personal,
    ),
    Rule(
        "completion_loops",
        ANSWERS,
        f"no answer says its last {_TAIL} characters more than {{threshold}} times",
        "it is what models write that do not find an end, and it teaches not to find one",
        "cut it where the repetition begins or leave the row out",
        severity="warn",
        threshold=4,
        unit="times",
        show=("completion", "completions"),
        batch=_looping,
    ),
    Rule(
        "completion_without_prompt",
        ANSWERS,
        "no answer holds its prompt",
        "answers that were saved with their prompt teach to say the prompt again",
        "cut the prompt off",
        severity="warn",
        show=("completion", "completions"),
        batch=_tells_the_prompt,
    ),
)
