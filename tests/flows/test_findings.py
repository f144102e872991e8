"""What the rules found in the data, as Prefect shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_page import FINDING

from flows.findings import findings_markdown
from rlhf.data.files import write_json


def test_findings_are_a_table_in_which_no_text_of_a_row_is_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert findings_markdown("validate") is None
    assert findings_markdown("ppo") is None
    write_json("metrics/findings.json", [])
    assert findings_markdown("validate") == "Every row keeps every rule."
    write_json(
        "metrics/findings.json", [FINDING | {"example": "[x](http://y) | <b>\nz"}, FINDING | {"rows": None}]
    )
    told = findings_markdown("validate")
    assert told is not None
    head, _, first, second = told.splitlines()
    assert head.count("|") == 7
    assert "| warn | 1234 |" in first
    assert "\\[x\\](http\\://y) \\| &lt;b&gt; z" in first
    assert "| warn |  |" in second
    assert "<script" not in told


def test_what_differs_from_the_last_version_is_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_json("metrics/findings.json", [])
    write_json("runs/validate.json", {"drift": [FINDING | {"rows": None, "text": "as long as before"}]})
    told = findings_markdown("validate")
    assert told is not None
    assert "as long as before" in told
