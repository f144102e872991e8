"""The QA-feedback preferences of FineGrainedRLHF (Wu et al. 2023): one reader of `dev_feedback.json`.

The layout `qa-feedback`, with which files and the label app read it, and the source of the recipe take the
questions from here, so that a question has one prompt, and a held-out question is recognised wherever its
rankings come from. The source makes one ranking of each question, in which some ties are broken; the layout
keeps the six pairs where no ranking says exactly what they say.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.formats.json_files import read_json_list
from rlhf.data.sources import Raw, Rows, marked, source_hash

PROMPT_CHARS = 480  # question, passages and cue together; the passages are trimmed to fit
OUTPUTS = tuple(f"prediction {i}" for i in range(1, 5))
PAIRS = tuple(itertools.combinations(range(4), 2))  # the order of the six preferences
LABELER, GROUP = "qa-feedback-annotators", "human"


@dataclass(frozen=True)
class Question:
    """One question with its answers.

    Attributes:
        prompt: the question, its passages trimmed to `PROMPT_CHARS` in all, and a cue.
        passages: each passage on one line, whole.
        reference: the human-written answer.
        outputs: four answers by models, in the order of `OUTPUTS`.
        preferences: of each pair in the order of `PAIRS`: 0 a tie, 1 the first is better, 2 the second.
        edit: what people made of the first output; empty where nobody changed it.
    """

    prompt: str
    passages: tuple[str, ...]
    reference: str
    outputs: tuple[str, ...]
    preferences: tuple[int, ...]
    edit: str


def question_of(item: Any) -> Question:
    """A question from one item of the file.

    Raises:
        DataError: the item lacks something or holds something else.
    """
    needed = ("question", "passages", "gold", *OUTPUTS, "preference")
    for key in needed:
        if not isinstance(item, dict) or key not in item:
            raise DataError(f"{key!r} is missing; it needs {', '.join(needed)}")
    feedback = item.get("feedback") or {}
    edit = feedback.get("corrected-prediction") or "" if isinstance(feedback, dict) else None
    texts = [item["question"], item["gold"], *(item[key] for key in OUTPUTS), edit]
    if not all(isinstance(text, str) for text in texts):
        raise DataError("question, gold, predictions and the corrected prediction must be text")
    passages = item["passages"]
    if not isinstance(passages, list) or not all(
        isinstance(p, list) and p and all(isinstance(s, str) for s in p) for p in passages
    ):
        raise DataError("a passage must be a title followed by sentences")
    preferences = item["preference"]
    if (
        not isinstance(preferences, list)
        or len(preferences) != len(PAIRS)
        or not all(isinstance(p, int) and p in (0, 1, 2) for p in preferences)
    ):
        raise DataError(f"preference must be {len(PAIRS)} numbers, each 0, 1 or 2; got {preferences!r}")
    lines = tuple(f"{p[0]}: {' '.join(' '.join(p[1:]).split())}" for p in passages)
    prompt = _prompt(item["question"], " ".join(lines))
    outputs = tuple(item[key] for key in OUTPUTS)
    return Question(prompt, lines, item["gold"], outputs, tuple(preferences), texts[-1])


def _prompt(question: str, passages: str) -> str:
    head, cue = f"QUESTION: {' '.join(question.split())}\nPASSAGES: ", "\nANSWER:"
    room = PROMPT_CHARS - len(head) - len(cue)
    if len(passages) > room:
        passages = passages[: max(0, room)].rsplit(" ", 1)[0]  # whole words
    return head + passages + cue


def ranking_of_pairs(preferences: Sequence[int]) -> list[int]:
    """A dense ranking of four outputs, 1 best, from the preferences of their six pairs in order.

    An output's rank is one more than the longest chain of ever better outputs above it: exact when "not
    better" is transitive, and otherwise no strict preference is lost while some ties are (1 beats 3 although
    both tie with 2).

    Raises:
        DataError: the preferences go in a circle.
    """
    better: dict[int, set[int]] = {i: set() for i in range(4)}  # output -> outputs better than it
    for pair, preferred in zip(PAIRS, preferences, strict=True):
        if preferred:
            winner, loser = pair if preferred == 1 else pair[::-1]
            better[loser].add(winner)
    ranking = [1] * 4
    for _ in range(4):  # in a circle ranks rise with every pass
        ranking = [1 + max((ranking[j] for j in better[i]), default=0) for i in range(4)]
    if max(ranking) > 4:
        raise DataError(f"the preferences {list(preferences)} go in a circle; no ranking agrees with them")
    return ranking


def broken_ties(preferences: Sequence[int], ranking: Sequence[int]) -> int:
    """How many pairs are ties in the preferences and none in the ranking made of them."""
    pairs = zip(PAIRS, preferences, strict=True)
    return sum(preferred == 0 and ranking[a] != ranking[b] for (a, b), preferred in pairs)


def qa_feedback(path: Path | str) -> Raw:
    """`dev_feedback.json` of FineGrainedRLHF (Wu et al. 2023): questions with passages, a human reference
    and four outputs that people compared pair by pair.

    The six preferences become one ranking with ties. Corpus: all passages, and the prompts.

    Raises:
        DataError: not that file, or preferences that go in a circle.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{path}: no such file; source qa-feedback needs dev_feedback.json")
    items = read_json_list(file)
    if not items:
        raise DataError(f"{path}: holds no questions")

    demonstrations: Rows = []
    comparisons: Rows = []
    passages: dict[str, None] = {}  # in order, each once
    untied = 0
    for number, item in enumerate(items, start=1):
        try:
            question = question_of(item)
            ranking = ranking_of_pairs(question.preferences)
        except DataError as error:
            raise DataError(f"{path}: question {number}: {error}") from None
        passages |= dict.fromkeys(question.passages)
        untied += broken_ties(question.preferences, ranking)
        demonstrations.append(
            {
                "prompt": question.prompt,
                "completion": question.reference,
                "writer_id": "qa-feedback-writers",
            }
        )
        comparisons.append(
            {
                "prompt": question.prompt,
                "completions": list(question.outputs),
                "ranking": ranking,
                "labeler_id": LABELER,
                "labeler_group": GROUP,
                "policies": list(OUTPUTS),
            }
        )
    prompts = [{"prompt": row["prompt"]} for row in demonstrations]
    corpus = [{"text": text} for text in [*passages, *(row["prompt"] for row in demonstrations)]]
    tables = {
        "corpus": corpus,
        "demonstrations": demonstrations,
        "prompts": prompts,
        "comparisons": comparisons,
    }
    note = f"{untied} of {len(items) * len(PAIRS)} pairs are ties that the other pairs of the question break"
    tables = {name: marked(rows, "qa-feedback") for name, rows in tables.items()}
    return Raw(tables, [], f"sha256 {source_hash(file)}", (note,))
