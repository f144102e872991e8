"""Candidates: rows of a file, prompts with outputs, that may become items of a queue.

The comparisons that the stage `collect` writes fit as they are, and so does any JSONL, JSON, CSV or Parquet
with the columns of `CANDIDATE`. Messages may stand for the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa

from labeling.rows import clean, clean_output, clean_prompt, dumps
from rlhf.data.contracts import COMPARISON, Contract
from rlhf.data.errors import DataError
from rlhf.data.readers import read_rows

MOST_OUTPUTS = 9  # digits on a keyboard
CANDIDATE = Contract(
    "candidate row",
    pa.schema(
        [
            *COMPARISON.schema,
            ("output", pa.string()),  # one output in place of `completions`
            ("policy", pa.string()),
            ("reference", pa.string()),
            ("scores", pa.list_(pa.list_(pa.float64()))),  # a list for each scorer, a number for each output
            ("expected", pa.string()),  # JSON: the known answer of gold and onboarding items
            ("explanation", pa.string()),
        ]
    ),
    ("prompt", "completions"),
    ("prompt",),
)


@dataclass(frozen=True)
class Candidate:
    """What may become an item. `scores[m][k]` says how much scorer m likes output k; `messages` are the turns
    of a conversation, of which an output is the next, and None where the prompt is plain text."""

    prompt: str
    outputs: tuple[str, ...]
    policies: tuple[str, ...]
    reference: str | None = None
    split: str | None = None
    source: str = ""
    scores: tuple[tuple[float, ...], ...] = ()
    expected: dict[str, Any] | None = None
    explanation: str | None = None
    messages: list[dict[str, str]] | None = None


def read_candidates(path: Path | str, source: str | None = None) -> list[Candidate]:
    """The candidates of a file. Rows with the same prompt and outputs are one candidate, and the ranking of
    each row is a scorer of it.

    Raises:
        DataError: the file or a row cannot be used.
    """
    candidates: dict[tuple[str, str, tuple[str, ...]], Candidate] = {}
    for number, row in enumerate(read_rows(path, CANDIDATE), start=1):
        try:
            new = _candidate(row, source or Path(path).name)
        except DataError as error:
            raise DataError(f"{path}: row {number}: {error}") from None
        key = new.prompt, dumps(new.messages), new.outputs
        if key in candidates:
            new = replace(new, scores=candidates[key].scores + new.scores)
        candidates[key] = new
    return list(candidates.values())


def _candidate(row: dict[str, Any], source: str) -> Candidate:
    outputs = row.get("completions") or ([row["output"]] if row.get("output") is not None else [])
    if not outputs:
        raise DataError("it has neither 'completions' nor 'output'")
    if len(outputs) > MOST_OUTPUTS:
        raise DataError(f"it has {len(outputs)} outputs; at most {MOST_OUTPUTS} can be shown")
    prompt, messages = clean_prompt(row["prompt"] or "", row.get("messages"))
    texts = tuple(clean_output(text or "", "an output", messages) for text in outputs)
    if len({text.strip() for text in texts}) < len(texts):
        raise DataError("two of its outputs are the same text")
    policies = row.get("policies") or ([row["policy"]] if row.get("policy") else [""] * len(texts))
    if len(policies) != len(texts):
        raise DataError(f"{len(texts)} outputs but {len(policies)} policies")
    reference = row.get("reference")
    if reference is None and "reference" in policies:
        reference = texts[policies.index("reference")]
    scores = [tuple(line) for line in row.get("scores") or ()]
    if row.get("ranking") and None not in row["ranking"]:
        scores.append(tuple(-rank for rank in row["ranking"]))
    if any(len(line) != len(texts) for line in scores):
        raise DataError("scores and rankings need a number for each output")
    expected = None
    if row.get("expected"):
        try:
            expected = json.loads(row["expected"])
        except json.JSONDecodeError:
            raise DataError("'expected' is not JSON") from None
    return Candidate(
        prompt,
        texts,
        tuple(policy or "" for policy in policies),
        None if reference is None else clean_output(reference, "the reference", messages),
        row.get("split"),
        clean(row.get("source") or source, "the source", 200),
        tuple(scores),
        expected,
        row.get("explanation"),
        messages,
    )


def units(kind: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates as items of one kind: pairs to compare, whole rows to rank, else one output each.

    Raises:
        DataError: nothing of this kind can be made of them.
    """
    items: list[Candidate] = []
    for row in candidates:
        subsets: list[tuple[int, ...]]
        if kind == "rank":
            subsets = [tuple(range(len(row.outputs)))] if len(row.outputs) > 1 else []
        elif kind == "compare":
            subsets = list(combinations(range(len(row.outputs)), 2))
        else:
            subsets = [(k,) for k in range(len(row.outputs))]
            if kind == "judge":
                subsets = [(k,) for (k, *_) in subsets if row.reference and row.outputs[k] != row.reference]
        for subset in subsets:
            items.append(
                replace(
                    row,
                    outputs=tuple(row.outputs[k] for k in subset),
                    policies=tuple(row.policies[k] for k in subset),
                    scores=tuple(tuple(line[k] for k in subset) for line in row.scores),
                    reference=row.reference if kind in ("judge", "edit") else None,
                )
            )
    if not items:
        needs = {"judge": "a reference and another output", "compare": "two outputs", "rank": "two outputs"}
        raise DataError(f"no item to {kind}: a row needs a prompt and {needs.get(kind, 'an output')}")
    return items
