"""The command line of the label store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from labeling.__main__ import main


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = ["--db", f"sqlite:///{tmp_path / 'x.db'}"]
    with pytest.raises(SystemExit) as caught:
        main([*db, "status"])
    assert caught.value.code == 1
    assert "labeling init" in capsys.readouterr().err
    main([*db, "init"])
    assert "password" in capsys.readouterr().out
    main([*db, "init"])
    assert "password" not in capsys.readouterr().out
    (tmp_path / "c.jsonl").write_text('{"prompt": "p", "completions": ["a", "b"], "ranking": [1, 2]}\n')
    (tmp_path / "g.txt").write_text("Be kind.")
    main([*db, "import", "proj", str(tmp_path / "c.jsonl")])
    main([*db, "guideline", "add", "proj", str(tmp_path / "g.txt")])
    main([*db, "queue", "add", "proj", "q", "--kind", "compare"])
    main([*db, "items", "add", "proj", "q", str(tmp_path / "c.jsonl")])
    main([*db, "user", "add", "ann", "--random-password"])
    main([*db, "user", "token", "ann"])
    main([*db, "export", "proj", str(tmp_path / "out"), "--cut", "--format", "jsonl"])
    main([*db, "status"])
    said = capsys.readouterr().out
    assert "1 new of 1 label" in said
    assert "0 labels in no version yet" in said
    assert (tmp_path / "out" / "comparisons.jsonl").exists()
    with pytest.raises(SystemExit):
        main([*db, "export", "proj", str(tmp_path / "out"), "--cut"])
    assert "no labels that are in no version" in capsys.readouterr().err


def test_help_shows_commands(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "labeling", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "python -m labeling serve" in done.stdout
