"""QA feedback (Wu et al. 2023, FineGrainedRLHF): four answers to a question, compared pair by pair, a
reference, and an edit of the first answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record
from rlhf.data.layouts.values import comparison
from rlhf.data.qa_feedback import (
    GROUP,
    LABELER,
    OUTPUTS,
    PAIRS,
    broken_ties,
    question_of,
    ranking_of_pairs,
)

_RANKING = {0: [1, 1], 1: [1, 2], 2: [2, 1]}  # of a pair, by what its preference says
WRITER = "qa-feedback-writers"


def _fits(columns: Mapping[str, str]) -> bool:
    return {"question", "passages", "gold", "preference", *OUTPUTS} <= columns.keys()


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        question = question_of(record.columns)
        asked = {"prompt": question.prompt}
        yield from (Item("corpus", {"text": text}) for text in (*question.passages, question.prompt))
        yield Item("demonstrations", {**asked, "completion": question.reference, "writer_id": WRITER})
        labeler: dict[str, Any] = {"labeler_id": LABELER, "labeler_group": GROUP}
        for places, ranking in _rankings(question.preferences, notes):
            yield comparison(
                asked,
                [question.outputs[place] for place in places],
                ranking=ranking,
                policies=[OUTPUTS[place] for place in places],
                **labeler,
            )
        if question.edit.strip():
            edit = {"output": question.outputs[0], "text": question.edit, "policy": OUTPUTS[0]}
            yield Item("edits", asked | labeler | edit)
        feedback = record.columns.get("feedback")
        if isinstance(feedback, Mapping) and any(feedback.get(key) for key in ("errors", "missing-info")):
            notes.pass_over("questions with error spans or missing information", record.where)


def _rankings(preferences: Sequence[int], notes: Notes) -> list[tuple[Sequence[int], list[int]]]:
    """Which outputs are ranked together, and how: all four where a ranking says exactly what the six
    preferences say, else the six pairs, so that no tie and no preference is lost."""
    try:
        ranking = ranking_of_pairs(preferences)
        exact = broken_ties(preferences, ranking) == 0
    except DataError:
        exact = False
    if exact:
        return [(range(4), ranking)]
    notes.say("questions whose six preferences no ranking says exactly are read as six pairs")
    return [(pair, _RANKING[preferred]) for pair, preferred in zip(PAIRS, preferences, strict=True)]


LAYOUT = Layout(
    name="qa-feedback",
    about="four answers to a question compared pair by pair, a reference and an edit (FineGrainedRLHF)",
    columns="`question`, `passages`, `gold`, `prediction 1` to `prediction 4`, `preference[6]`, `feedback`",
    fits=_fits,
    rows=_rows,
    own=frozenset(("question", "passages", "gold", *OUTPUTS, "preference", "feedback")),
)
