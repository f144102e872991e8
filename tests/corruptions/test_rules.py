"""Corruptions of values, labels, direction, leakage, encoding, lengths and personal data, one at a time.

Each is planted in good data and must be found by its own rule, in one line that names file, row and mend; its
clean twin, as near to it as good data can be, must not be. What a broken rule stops leaves nothing behind.
Corruptions of files and columns are in test_structure.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Workspace
from of_labels import LABELS
from of_texts import TEXTS
from planting import Tables, good

from tasks.rules import drift, expectations
from tasks.rules.catalogue import BY_NAME
from tasks.runtime.errors import StageError

CORRUPTIONS = {**TEXTS, **LABELS}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A folder with no more of the project than its parameters and its graph; no Data Docs are written."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(expectations, "write_docs", lambda context, folder: folder.mkdir(parents=True))
    workspace = Workspace(tmp_path)
    workspace.set({"ingest.source": "files", "ingest.path": "own", "collect.labelers": "given"})
    workspace.set({"evaluate.judges": ["human"]})
    return workspace


def checked(workspace: Workspace, tables: Tables) -> tuple[str | None, list[dict[str, Any]]]:
    """The line of the error that ended the stages, if one did, and what was found."""
    Path("own").mkdir()
    for name, rows in tables.items():
        Path(f"own/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    error = None
    Path("metrics").mkdir()
    Path("metrics/validation.json").write_text("{}")  # of an earlier run
    for stage in ("ingest", "prepare"):
        workspace.stage(stage)
    try:
        workspace.stage("validate")
    except StageError as stopped:
        error = str(stopped)
    assert not list(Path(".").rglob("*.part"))
    assert Path("metrics/validation.json").read_text() != "{}" if error is None else True
    assert error is None or not Path("metrics/validation.json").exists()
    return error, json.loads(Path("metrics/findings.json").read_text())


def test_good_data_break_no_rule(folder: Workspace) -> None:
    assert checked(folder, good()) == (None, [])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_found_by_its_rule(
    name: str, folder: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    corruption, tables = CORRUPTIONS[name], good()
    corruption.bad(tables)
    folder.set(corruption.params)
    error, findings = checked(folder, tables)
    told = [finding for finding in findings if finding["rule"] == corruption.rule]
    assert told, findings
    severity = BY_NAME[corruption.rule].severity
    assert {finding["severity"] for finding in told} == {severity}
    if severity == "stop":
        assert error is not None
        line = error
    else:
        lines = capsys.readouterr().out.splitlines()
        said = [line for line in lines if line.startswith("warning: ") and told[0]["text"] in line]
        line = " ".join(said)
    assert "\n" not in line
    if severity == "stop" and findings[0]["rule"] != corruption.rule:
        line = " ".join(f"{finding['example']} {finding['text']} {finding['mend']}" for finding in told)
    for part in (*corruption.said, told[0]["mend"]):
        assert part in line, line


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_its_clean_twin_is_not(name: str, folder: Workspace) -> None:
    corruption, tables = CORRUPTIONS[name], good()
    corruption.fine(tables)
    folder.set(corruption.params)
    error, findings = checked(folder, tables)
    assert corruption.rule not in {finding["rule"] for finding in findings}, findings
    assert error is None or BY_NAME[corruption.rule].severity == "warn", error


def test_there_are_corruptions_for_every_rule_that_a_file_can_break() -> None:
    """The others are about what only the stages themselves could get wrong, or about two versions."""
    own = {
        "has_rows",
        "split_known",
        "messages_asked",
        "source_filled",
        "label_filled",
        "labeler_group_known",
        "ranking_says_something",
    }
    assert set(BY_NAME) - {corruption.rule for corruption in CORRUPTIONS.values()} <= own | drift.NAMES
    assert len(CORRUPTIONS) >= 80
