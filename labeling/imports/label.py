"""A label as a file has it, whatever its layout, and how the rows of a layout become labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.data.conversations import Messages
from rlhf.data.errors import DataError
from rlhf.data.unnamed import UNKNOWN


@dataclass(frozen=True)
class ImportedLabel:
    """One label of a file. `answer` is as `labeling.answers` stores it, with what else a comparison says of
    its ranking (`scores`, `margin`, `extra`); `messages` are the turns of a conversation, None where the
    prompt is plain text; `source` is the row's own, None takes the file's name."""

    kind: str
    prompt: str
    outputs: tuple[str, ...]
    answer: dict[str, Any]
    labeler: str
    group: str = "imported"
    policies: tuple[str, ...] = ()
    reference: str | None = None
    strength: int | None = None
    seconds: float | None = None
    shown_order: tuple[int, ...] | None = None
    guideline_version: str | None = None
    split: str | None = None
    note: str = ""
    messages: Messages | None = None
    source: str | None = None


def label_of(table: str, row: Mapping[str, Any]) -> ImportedLabel:
    """The label that a row of a contract is.

    Args:
        table: a key of `KINDS_OF`.
        row: its columns; see `rlhf.data.layouts.layout.Item`.

    Raises:
        DataError: what the row says makes no sense.
    """
    return KINDS_OF[table](row)


def _common(row: Mapping[str, Any], labeler: str | None, group: str | None = None) -> dict[str, Any]:
    return {
        "prompt": row.get("prompt") or "",
        "messages": row.get("messages"),
        "labeler": labeler or UNKNOWN,
        "group": group or row.get("labeler_group") or "imported",
        "seconds": row.get("seconds"),
        "shown_order": tuple(row["shown_order"]) if row.get("shown_order") else None,
        "guideline_version": row.get("guideline_version"),
        "split": row.get("split"),
        "source": row.get("source"),
        "note": row.get("note") or "",
    }


def _said(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """What a row says under these names, without those that are not set."""
    return {name: row[name] for name in names if row.get(name) is not None}


def _ranked(row: Mapping[str, Any]) -> ImportedLabel:
    outputs, ranking = row["completions"] or [], row["ranking"] or []
    if len(outputs) != len(ranking) or len(outputs) < 2:
        raise DataError(
            f"{len(outputs)} completions and {len(ranking)} ranks; it needs two or more, one rank each"
        )
    if ranking.count(None) == len(ranking):
        raise DataError(f"ranking {ranking} ranks nothing; leave the row out")
    pair = len(outputs) == 2 and None not in ranking
    answer: dict[str, Any] = {"ranking": list(ranking)}
    if pair:
        answer["both_bad"] = bool(row.get("both_bad"))
    elif row.get("both_bad"):
        answer["both_bad"] = True
    return ImportedLabel(
        kind="compare" if pair else "rank",
        outputs=tuple(outputs),
        answer=answer | _said(row, "scores", "margin", "extra"),
        policies=tuple(policy or "" for policy in row.get("policies") or ()),
        strength=row.get("strength"),
        **_common(row, row.get("labeler_id")),
    )


def _written(row: Mapping[str, Any]) -> ImportedLabel:
    answer = {"text": row["completion"]} | _said(row, "extra")
    return ImportedLabel(kind="edit", outputs=(), answer=answer, **_common(row, row.get("writer_id")))


def _edited(row: Mapping[str, Any]) -> ImportedLabel:
    output = row.get("output")
    return ImportedLabel(
        kind="edit",
        outputs=() if output is None else (output,),
        policies=() if output is None else (row.get("policy") or "",),
        answer={"text": row["text"]} | _said(row, "extra"),
        **_common(row, row.get("labeler_id")),
    )


def _judged(row: Mapping[str, Any]) -> ImportedLabel:
    if row["preferred"] not in ("output", "reference", "tie"):
        raise DataError(f"preferred is {row['preferred']!r}; it is output, reference or tie")
    # People are the rule here; of any other judge the export must say that it was none of them.
    kind = {} if row.get("judge_kind") in (None, "human") else {"judge_kind": row["judge_kind"]}
    return ImportedLabel(
        kind="judge",
        outputs=(row["output"],),
        answer={"preferred": row["preferred"], **kind} | _said(row, "extra"),
        policies=(row["policy"] or "",),
        reference=row["reference"],
        **_common(row, row.get("judge_id"), row.get("judge_kind")),
    )


def _voted(row: Mapping[str, Any]) -> ImportedLabel:
    return ImportedLabel(
        kind="vote",
        outputs=(row["completion"],),
        answer={"vote": "up" if row["label"] else "down"} | _said(row, "extra"),
        **_common(row, row.get("labeler_id")),
    )


# Tables whose rows are labels, with what makes one of a row.
KINDS_OF: dict[str, Callable[[Mapping[str, Any]], ImportedLabel]] = {
    "comparisons": _ranked,
    "demonstrations": _written,
    "edits": _edited,
    "judgments": _judged,
    "votes": _voted,
}
