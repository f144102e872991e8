"""A table as the template shows it: rows of text, and whether it is too wide for a phone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Table = dict[str, Any]
PHONE = 46  # characters that fit beside each other on a phone


def table(
    caption: str, columns: Sequence[str], rows: list[list[str]], corner: str = "", note: str = ""
) -> Table:
    """A table for the template.

    Args:
        caption: stands above it.
        columns: headings of the columns after the first; none for a list of names and values.
        rows: of text, each row's name first.
        corner: heading of the first column, empty for none.
        note: stands below it.

    Returns:
        The arguments by name, and `wide`: whether it is too wide for a phone.
    """
    lines = [[corner, *columns], *rows] if columns else rows
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return {
        "caption": caption,
        "corner": corner,
        "columns": list(columns),
        "rows": rows,
        "note": note,
        "wide": sum(widths) + 2 * len(widths) > PHONE,
    }
