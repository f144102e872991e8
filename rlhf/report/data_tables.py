"""The report's table of what the data's rules found: warnings, and rows that were set aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.report.layout import Table, table
from rlhf.report.templates import visible

_SAID = {"warn": "warning", "quarantine": "set aside", "stop": "stopped"}


def findings_table(findings: Sequence[Mapping[str, Any]]) -> Table | None:
    """What was found in the data; None where nothing was.

    Args:
        findings: each with `table`, `rule`, `severity`, `text`, `rows` (None for a number about a table) and
            `example`, which may hold text of the data and is shown as text.
    """
    rows = [
        [
            f"{finding['table']}: {finding['text']}",
            _SAID.get(finding["severity"], finding["severity"]),
            "" if finding["rows"] is None else f"{finding['rows']:,}",
            visible(str(finding["example"])),
        ]
        for finding in findings
    ]
    return table("Checks of the data", ["", "rows", "such as"], rows, "what should hold") if rows else None
