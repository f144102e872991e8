"""Files as a source: whatever lies at the paths, in any layout, as the tables of the contracts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf.data.contracts import TABLES
from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Notes
from rlhf.data.reading import Quarantined, Source, read
from rlhf.data.sources import Raw, Rows


def files(sources: Sequence[Source], revision: str) -> Raw:
    """All rows of sources. Without a corpus the demonstrations serve as one.

    Args:
        sources: in the order of the rows.
        revision: the hash of all of them.

    Raises:
        DataError: what cannot be read, naming file and row; or all of it was passed over.
    """
    tables: dict[str, Rows] = {name: [] for name in (*TABLES, "judgments")}
    quarantine: list[Quarantined] = []
    notes = Notes()
    for source in sources:
        for item in read(source, notes, quarantine.append):
            for table, row in as_tables(item):
                if table == "comparisons" and prefers_nothing(row["ranking"]):
                    what = "comparisons that rank fewer than two completions, so that they prefer nothing"
                    notes.pass_over(what, row["source"], row["ranking"])
                else:
                    tables[table].append(row)
    if not any(tables.values()) and notes.passed_over:
        read_from = ", ".join(source.path for source in sources)
        raise DataError(f"{read_from}: nothing in it could be read: {'; '.join(notes.lines())}")
    judgments = tables.pop("judgments")
    if not tables["corpus"]:
        tables["corpus"] = [
            {"text": _whole(row), "source": row["source"]} for row in tables["demonstrations"]
        ]
    aside = [{"where": row.where, "why": row.why, "record": row.record} for row in quarantine]
    return Raw(tables, [], f"sha256 {revision}", tuple(notes.lines()), judgments, aside)


def prefers_nothing(ranking: Sequence[int | None] | None) -> bool:
    """Whether a ranking leaves all of its outputs but one, or all, unranked."""
    ranking = ranking or []
    return None in ranking and len(ranking) - ranking.count(None) < 2


def as_tables(item: Item) -> list[Item]:
    """An item as rows of tables: an edit is a demonstration, and better than the output it was made of."""
    if item.table != "edits":
        return [item]
    row = dict(item.row)
    output, text, labeler = row.pop("output"), row.pop("text"), row.pop("labeler_id", None)
    policy = row.pop("policy", None) or ""
    kept = {name: row.get(name) for name in ("prompt", "messages", "split", "source", "extra")}
    rows = [Item("demonstrations", kept | {"completion": text, "writer_id": labeler})]
    if output is not None and output != text:
        rows.append(
            Item(
                "comparisons",
                row
                | {
                    "completions": [text, output],
                    "ranking": [1, 2],
                    "labeler_id": labeler,
                    "policies": ["edit", policy],
                },
            )
        )
    return rows


def _whole(row: dict[str, Any]) -> str:
    """A demonstration as one text, which opens with its prompt."""
    prompt, completion = row["prompt"] or "", row["completion"] or ""
    if row.get("messages") is None:
        return f"{prompt} {completion.strip()}"
    return f"{prompt}\n\nAssistant: {completion}"
