"""Labels of the QA-feedback data: preferences between four outputs of a question, and an edit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from labeling.imports.label import ImportedLabel
from rlhf.data.errors import DataError
from rlhf.data.qa_feedback import GROUP, LABELER, OUTPUTS, PAIRS, broken_ties, question_of, ranking_of_pairs

RANKING_OF_PREFERENCE = {0: [1, 1], 1: [1, 2], 2: [2, 1]}


def labels_of_question(record: dict[str, Any]) -> Iterator[ImportedLabel]:
    """Labels of a question of `dev_feedback.json`: the six preferences of its four outputs, and the edit.

    The preferences become one ranking with ties where a ranking says exactly the same. Otherwise (a tie that
    the other pairs break, or a circle) they stay six comparisons, so that no tie and no preference is lost.
    """
    question = question_of(record)
    outputs = tuple(text.strip() for text in question.outputs)
    common: dict[str, Any] = {"prompt": question.prompt, "labeler": LABELER, "group": GROUP}
    try:
        ranking = ranking_of_pairs(question.preferences)
        exact = broken_ties(question.preferences, ranking) == 0
    except DataError:
        exact = False
    if exact:
        answer = {"ranking": ranking}
        yield ImportedLabel(kind="rank", outputs=outputs, policies=OUTPUTS, answer=answer, **common)
    else:
        for (i, j), preferred in zip(PAIRS, question.preferences, strict=True):
            yield ImportedLabel(
                kind="compare",
                outputs=(outputs[i], outputs[j]),
                policies=(OUTPUTS[i], OUTPUTS[j]),
                answer={"ranking": RANKING_OF_PREFERENCE[preferred], "both_bad": False},
                **common,
            )
    edit = question.edit.strip()
    if edit:
        yield ImportedLabel(
            kind="edit", outputs=outputs[:1], policies=OUTPUTS[:1], answer={"text": edit}, **common
        )
