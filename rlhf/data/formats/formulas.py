"""Texts in a CSV file that a spreadsheet would run: `=HYPERLINK(...)`, `+1`, `-1`, `@SUM(...)`.

Where labels are exported as CSV, such a text has an apostrophe before it, which spreadsheets know as the mark
of a text. The manifest beside the file says so, and whoever reads it takes the mark away again; a CSV file
without that manifest is read as it is.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

MARK = "'"
SAID = "formulas"  # the manifest's key
_RUNS = re.compile(r"'*\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|'*[\t\r\n]")


def guarded(text: str) -> str:
    """The text with the mark, where a spreadsheet would run it, or where it already looks marked."""
    return MARK + text if _RUNS.match(text) else text


def unguarded(text: str) -> str:
    """The text that `guarded` was given."""
    return text[1:] if text.startswith(MARK) and _RUNS.match(text) else text


def is_guarded(path: Path) -> bool:
    """Whether a CSV file is one of an export whose manifest says that its texts are marked."""
    try:
        return SAID in json.loads((path.parent / "manifest.json").read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        return False
