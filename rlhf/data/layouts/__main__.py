"""The table of layouts for docs/data.md: `python -m rlhf.data.layouts`."""

from __future__ import annotations

from rlhf.data.layouts.recognise import LAYOUTS


def table() -> str:
    """A row of Markdown for each layout: its name, what it is, its columns."""
    rows = [
        f"| `{layout.name}` | {layout.about} | {layout.columns} |".replace("\n", "\\n") for layout in LAYOUTS
    ]
    return "\n".join(["| layout | what it is | columns |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())
