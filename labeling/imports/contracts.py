"""Labels of the data contracts: a comparison is a ranking, a demonstration an edit, a judgment itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labeling.imports.label import ImportedLabel
from rlhf.data.contracts import COMPARISON, DEMONSTRATION, JUDGMENT, Contract
from rlhf.data.errors import DataError
from rlhf.data.readers import read_rows


def contract_of(columns: set[str]) -> Contract:
    """Which contract a file's columns are.

    Raises:
        DataError: none of them.
    """
    told = columns | {"prompt"} if "messages" in columns else columns
    for contract in (COMPARISON, DEMONSTRATION, JUDGMENT):
        if set(contract.required) <= told:
            return contract
    if "messages" in columns:  # they may end with the completion
        return DEMONSTRATION
    raise DataError(
        f"columns {', '.join(sorted(columns)) or '(none)'}: not comparisons (prompt, completions, ranking), "
        "demonstrations (prompt, completion), judgments (prompt, reference, output, policy, preferred), nor "
        "an export of Argilla or Label Studio"
    )


def labels_of_rows(path: Path, contract: Contract, notes: list[str] | None) -> list[ImportedLabel]:
    """The labels of a file whose rows are of a contract; see `read_labels`."""
    labels = []
    for number, row in enumerate(read_rows(path, contract, notes), start=1):
        try:
            labels.append(_label(contract, row))
        except DataError as error:
            raise DataError(f"{path}: row {number}: {error}") from None
    return labels


def _label(contract: Contract, row: dict[str, Any]) -> ImportedLabel:
    if contract is DEMONSTRATION:
        return ImportedLabel(
            kind="edit",
            prompt=row["prompt"],
            messages=row.get("messages"),
            outputs=(),
            answer={"text": row["completion"]},
            labeler=row.get("writer_id") or "unknown",
            split=row.get("split"),
        )
    return _judged(row) if contract is JUDGMENT else _ranked(row)


def _judged(row: dict[str, Any]) -> ImportedLabel:
    if row["preferred"] not in ("output", "reference", "tie"):
        raise DataError(f"preferred is {row['preferred']!r}; it is output, reference or tie")
    return ImportedLabel(
        kind="judge",
        prompt=row["prompt"],
        messages=row.get("messages"),
        outputs=(row["output"],),
        answer={"preferred": row["preferred"]},
        labeler=row.get("judge_id") or "unknown",
        group=row.get("judge_kind") or "imported",
        policies=(row["policy"] or "",),
        reference=row["reference"],
        shown_order=tuple(row["shown_order"]) if row.get("shown_order") else None,
        split=row.get("split"),
    )


def _ranked(row: dict[str, Any]) -> ImportedLabel:
    outputs, ranking = row["completions"] or [], row["ranking"] or []
    if len(outputs) != len(ranking) or len(outputs) < 2:
        raise DataError(
            f"{len(outputs)} completions and {len(ranking)} ranks; it needs two or more, one rank each"
        )
    if len(ranking) - ranking.count(None) < 2:
        raise DataError(f"ranking {ranking} says nothing: it needs the ranks of two completions or more")
    return ImportedLabel(
        kind="compare" if len(outputs) == 2 else "rank",
        prompt=row["prompt"],
        messages=row.get("messages"),
        outputs=tuple(outputs),
        answer={"ranking": ranking} | ({"both_bad": False} if len(outputs) == 2 else {}),
        labeler=row.get("labeler_id") or "unknown",
        group=row.get("labeler_group") or "imported",
        policies=tuple(row.get("policies") or ()),
        strength=row.get("strength"),
        seconds=row.get("seconds"),
        shown_order=tuple(row["shown_order"]) if row.get("shown_order") else None,
        guideline_version=row.get("guideline_version"),
        split=row.get("split"),
    )
