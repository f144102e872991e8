"""The report's table of a base model that was brought in from elsewhere, and what was changed of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf.measures.display import count_text
from rlhf.report.layout import Table, table
from rlhf.report.templates import visible


def base_table(base: Mapping[str, Any]) -> Table | None:
    """What is known of a base model; None for one that was trained here.

    Args:
        base: what stands in metrics/base.json. Names of tokens come from the model and are shown as text.
    """
    if "architecture" not in base:
        return None
    reads = (
        base["dtype"] if base["dtype"] == base["stored"] else f"{base['dtype']}, stored as {base['stored']}"
    )
    rows = [
        ["model", base["name"]],
        ["commit", base["revision"] or ""],
        ["SHA-256 of its weights", base["hash"][:16]],
        ["licence", base["licence"] or "its card names none"],
        ["architecture", f"{base['architecture']}, {count_text(base['parameters'], 'parameters')}"],
        ["weights in memory", reads],
        ["context", count_text(base["context"], "tokens")],
        ["vocabulary", count_text(base["vocabulary"], "rows of embeddings")],
        ["template", base["template"]],
        ["an answer ends at", ", ".join(base["stops"])],
        ["pad token", base["pad"]],
    ]
    return table("Base model", [], [[name, visible(str(text))] for name, text in rows if text])
