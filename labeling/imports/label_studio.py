"""Labels of Label Studio: the JSON export, tasks with data and annotations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from labeling.imports.label import Fields, ImportedLabel
from rlhf.data.errors import DataError
from rlhf.data.rankings import dense_ranks


def labels_of_task(task: dict[str, Any], fields: Fields) -> Iterator[ImportedLabel]:
    """Labels of a task: Pairwise (left is the first output field), Ranker over a list of items with ids, and
    TextArea as an edit of the first output. Cancelled annotations are skips and passed over."""
    data = task["data"]
    for annotation in task["annotations"]:
        if annotation.get("was_cancelled"):
            continue
        by = annotation.get("completed_by")
        by = by.get("email") or by.get("id") if isinstance(by, dict) else by
        common: dict[str, Any] = {"labeler": f"label-studio-{by}", "seconds": annotation.get("lead_time")}
        for result in annotation["result"]:
            kind, value = result.get("type"), result.get("value", {})
            if kind == "ranker":
                yield _ranked(data, value, fields, common)
                continue
            asked, outputs = fields.texts(data)
            names = list(outputs)
            if kind == "pairwise" and value.get("selected") in ("left", "right") and len(names) >= 2:
                left = value["selected"] == "left"
                yield ImportedLabel(
                    kind="compare",
                    outputs=(outputs[names[0]], outputs[names[1]]),
                    policies=(names[0], names[1]),
                    answer={"ranking": [1, 2] if left else [2, 1], "both_bad": False},
                    shown_order=(0, 1),
                    **asked,
                    **common,
                )
            elif kind == "textarea" and names:
                text = value["text"]
                yield ImportedLabel(
                    kind="edit",
                    outputs=(outputs[names[0]],),
                    policies=(names[0],),
                    answer={"text": "\n".join(text) if isinstance(text, list) else text},
                    **asked,
                    **common,
                )


def _ranked(
    data: dict[str, Any], value: dict[str, Any], fields: Fields, common: dict[str, Any]
) -> ImportedLabel:
    listed = next(entries for entries in data.values() if isinstance(entries, list))
    texts = {str(entry["id"]): _text(entry) for entry in listed}
    ranked = next(iter(value["ranker"].values()))
    if not isinstance(ranked, list):
        raise DataError(f"a ranker's result is a list of items, not {ranked!r}")
    order = [str(key) for key in ranked]
    asked, _ = fields.texts(data)
    ranks = dense_ranks([order.index(key) if key in order else None for key in texts])
    return ImportedLabel(
        kind="rank",
        outputs=tuple(texts.values()),
        policies=tuple(texts),
        answer={"ranking": ranks},
        **asked,
        **common,
    )


def _text(entry: dict[str, Any]) -> str:
    return entry.get("body") or entry.get("text") or entry.get("html") or entry["title"]
