"""WebGPT comparisons (Nakano et al. 2021): two answers to a question, each with a score around 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, text_of
from rlhf.data.layouts.values import common, comparison, filled, number_of, object_of


def _fits(columns: Mapping[str, str]) -> bool:
    return {"question", "answer_0", "answer_1", "score_0", "score_1"} <= columns.keys()


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        question = columns["question"]
        if told := object_of(question):
            question = told.get("full_text", told.get("text"))
        scores = [columns.get(name) for name in ("score_0", "score_1")]
        if not all(map(filled, scores)):
            notes.pass_over("rows without both scores", record.where)
            continue
        notes.say("score_0 and score_1: the higher is the better, equal scores are a tie")
        yield comparison(
            {"prompt": text_of(columns.get("prompt", question), "question")},
            [text_of(columns.get(name), name) for name in ("answer_0", "answer_1")],
            scores=[number_of(score, "score_0 or score_1") for score in scores],
            **common(columns),
        )


LAYOUT = Layout(
    name="webgpt",
    about="two answers to a question with a score each (WebGPT comparisons)",
    columns="`question` (a text, or with `full_text`), `answer_0`, `answer_1`, `score_0`, `score_1`",
    fits=_fits,
    rows=_rows,
    own=frozenset(("question", "prompt", "answer_0", "answer_1", "score_0", "score_1", "split", "source")),
)
