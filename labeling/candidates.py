"""Candidates: rows of a file, prompts with outputs, that may become items of a queue.

The comparisons that the stage `collect` writes fit as they are, and so does any file with the columns of
`CANDIDATE`, or in a layout that the pipeline reads. Messages may stand for the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from labeling.rows import clean, clean_output, clean_prompt, dumps
from rlhf.data.contracts import COMPARISON, exact
from rlhf.data.conversations import as_columns
from rlhf.data.errors import DataError
from rlhf.data.formats.json_files import value_of
from rlhf.data.formats.parts import parts
from rlhf.data.formats.records import records
from rlhf.data.layouts.layout import Notes, Options
from rlhf.data.rankings import dense_ranks
from rlhf.data.reading import Source, read
from rlhf.data.shown import shown

MOST_OUTPUTS = 9  # digits on a keyboard
SHARED_OUTPUTS = 3  # outputs that two parts of a longer row have in common, so that one order follows
_TEXTS, _NUMBERS = pa.list_(pa.string()), pa.list_(pa.float64())
# What makes an item besides prompt and messages: `output` and `policy` stand for lists of one; `scores` has a
# list for each scorer, or is the list of one; `expected` is JSON, the known answer of gold and onboarding.
CANDIDATE = {
    "completions": _TEXTS,
    "output": pa.string(),
    "policies": _TEXTS,
    "policy": pa.string(),
    "reference": pa.string(),
    "scores": pa.list_(_NUMBERS),
    "expected": pa.string(),
    "explanation": pa.string(),
    "split": pa.string(),
    "source": pa.string(),
    "prompt": pa.string(),
    "messages": COMPARISON.schema.field("messages").type,
}
_ASKED = {"prompt", "messages"}


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


def read_candidates(
    path: Path | str,
    source: str | None = None,
    notes: list[str] | None = None,
    *,
    options: Options | None = None,
    layout: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Candidate]:
    """The candidates of a file. Rows with the same prompt and outputs are one candidate, and the ranking of
    each row is a scorer of it.

    Args:
        path: the file.
        source: what items carry as their source where a row names none; None takes the name of the file.
        notes: gets lines for a person to see, such as columns that are not read.
        options, layout, columns: see `labeling.imports.files.read_labels`.

    Raises:
        DataError: the file or a row cannot be used.
    """
    candidates: dict[tuple[str, str, tuple[str, ...]], Candidate] = {}
    said = Notes()
    asked = Source(str(path), layout=layout, columns=columns or {}, options=options or Options())
    for where, row in _rows(asked, said):
        try:
            new = _candidate(row, source or Path(path).name)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        key = new.prompt, dumps(new.messages), new.outputs
        if key in candidates:
            new = replace(new, scores=candidates[key].scores + new.scores)
        candidates[key] = new
    if notes is not None:
        notes += said.lines()
    return list(candidates.values())


def _rows(source: Source, notes: Notes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a file with where they stand: candidates as they are, or what a layout makes of them."""
    files = [file for part in parts(source.path) for file in part.files]
    first = {name for file in files for record in islice(records(file), 1) for name in record.columns}
    as_they_are = bool(_ASKED & first and {"output", "completions"} & first) and "preferred" not in first
    if source.layout or source.columns or not as_they_are:
        for item in read(source, notes):
            try:
                yield item.where, _of_layout(item.table, item.row)
            except DataError as error:
                raise DataError(f"{item.where}: {error}") from None
        return
    for file in files:
        for where, columns in records(file):
            left = [name for name in columns if name not in (*CANDIDATE, *COMPARISON.schema.names)]
            if left:
                notes.say(f"{file}: columns {', '.join(map(ascii, left))} are not read")
            try:
                yield where, _typed(columns)
            except DataError as error:
                raise DataError(f"{where}: {error}") from None


def _of_layout(table: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of a contract as a candidate's: whatever a model or a person answered is an output."""
    answer = row.get("completion", row.get("text"))
    if table in ("demonstrations", "votes") and answer is not None:
        return {**row, "output": answer}
    if table == "comparisons":
        return {**row, "scores": row.get("scores") and [row["scores"]]}
    if table in ("edits", "judgments"):
        return row
    raise DataError(f"a row of {table} has no output to label")


def _typed(columns: Mapping[str, Any]) -> dict[str, Any]:
    """A candidate's columns, each value checked against its column; cells of a CSV hold lists as JSON.

    Raises:
        DataError: a value that its column cannot hold.
    """
    row = {name: _cell(name, value) for name, value in columns.items()}
    scores = row.get("scores")
    if isinstance(scores, list) and scores and not isinstance(scores[0], list):
        row["scores"] = [scores]
    row = as_columns(row, ends_answered=False)
    if isinstance(row.get("ranking"), list):
        row["ranking"] = dense_ranks(row["ranking"])
    for name, kind in CANDIDATE.items():
        try:
            row[name] = exact(row.get(name), kind)
        except ValueError:
            raise DataError(f"column {name!r}: {ascii(row[name])[:60]} is no {kind}") from None
    return row


def _cell(name: str, value: Any) -> Any:
    lists = name == "ranking" or (name in CANDIDATE and pa.types.is_list(CANDIDATE[name]))
    if value == "" and name in CANDIDATE:
        return None
    if not (lists and isinstance(value, str)):
        return value
    try:
        return value_of(value)
    except DataError:
        raise DataError(f"column {name!r}: {shown(value)} is no list written as JSON") from None


def _candidate(row: Mapping[str, Any], source: str) -> Candidate:
    outputs = row.get("completions") or ([row["output"]] if row.get("output") is not None else [])
    if not outputs:
        raise DataError("it has neither 'completions' nor 'output'")
    prompt, messages = clean_prompt(row.get("prompt") or "", row.get("messages"))
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
            expected = value_of(row["expected"])
        except DataError as error:
            raise DataError(f"'expected': {error}") from None
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
    """Candidates as items of one kind: pairs to compare, whole rows to rank (or parts of a row that has more
    outputs than can be shown), else one output each.

    Raises:
        DataError: nothing of this kind can be made of them.
    """
    items: list[Candidate] = []
    for row in candidates:
        subsets: list[tuple[int, ...]]
        if kind == "rank":
            subsets = _ranked_parts(len(row.outputs)) if len(row.outputs) > 1 else []
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


def _ranked_parts(number: int) -> list[tuple[int, ...]]:
    """The places of outputs that are ranked together: all of them, or as many as can be shown, in parts that
    share outputs with the next.

        >>> [part[0] for part in _ranked_parts(12)], [len(part) for part in _ranked_parts(12)]
        ([0, 3], [9, 9])
    """
    if number <= MOST_OUTPUTS:
        return [tuple(range(number))]
    step = MOST_OUTPUTS - SHARED_OUTPUTS
    starts = [min(start, number - MOST_OUTPUTS) for start in range(0, number - SHARED_OUTPUTS, step)]
    return [tuple(range(start, start + MOST_OUTPUTS)) for start in dict.fromkeys(starts)]
