"""Labels of Argilla: records with fields, and responses by question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from labeling.imports.label import Fields, ImportedLabel
from rlhf.data.rankings import dense_ranks

TIES = ("tie", "equal", "same", "both", "neither", "draw")


def labels_of_record(record: dict[str, Any], fields: Fields) -> Iterator[ImportedLabel]:
    """Labels of a record: a label question names an output field (or a tie), a ranking question orders output
    fields, a text question edits the first output; other questions are passed over."""
    asked, outputs = fields.texts(record["fields"])
    names = list(outputs)
    for answers in record["responses"].values():
        for response in answers:
            value, labeler = response["value"], f"argilla-{response['user_id']}"
            common: dict[str, Any] = asked | {"labeler": labeler}
            if isinstance(value, str) and (value in names or value.lower() in TIES) and len(names) == 2:
                ranking = [1, 1] if value not in names else [1 if name == value else 2 for name in names]
                yield ImportedLabel(
                    kind="compare",
                    outputs=tuple(outputs.values()),
                    policies=tuple(names),
                    answer={"ranking": ranking, "both_bad": value.lower() == "neither"},
                    **common,
                )
            elif isinstance(value, list) and value:
                ranks = _ranks(value)
                if set(ranks) <= set(names) and len(ranks) > 1:
                    yield ImportedLabel(
                        kind="rank",
                        outputs=tuple(outputs.values()),
                        policies=tuple(names),
                        answer={"ranking": dense_ranks([ranks.get(name) for name in names])},
                        **common,
                    )
            elif isinstance(value, str) and names and len(value.split()) > 1:
                yield ImportedLabel(
                    kind="edit",
                    outputs=(outputs[names[0]],),
                    policies=(names[0],),
                    answer={"text": value},
                    **common,
                )


def _ranks(value: list[Any]) -> dict[Any, Any]:
    """The rank of each field in a ranking: the one given with it, or else its place in the list."""
    return {
        entry["value"] if isinstance(entry, dict) else entry: (
            entry["rank"] if isinstance(entry, dict) else place
        )
        for place, entry in enumerate(value, start=1)
    }
