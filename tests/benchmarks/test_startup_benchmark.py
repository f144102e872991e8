"""The benchmark of the start: what it counts as an import, its medians and its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import startup


def figures(scale: float, *names: str) -> startup.Figures:
    return {
        name: {"seconds": 2.0, "cpu_seconds": 1.0, "import_seconds": scale, "modules": 10, "memory_mb": 100.0}
        for name in names
    }


def test_only_own_imports_count_and_a_failure_is_said(tmp_path: Path) -> None:
    code = "import sys, wave; print('import time: no', file=sys.stderr)"
    got = startup._process(tmp_path, "one", ["-c", code])
    assert tuple(got) == startup.COLUMNS
    assert 30 < got["modules"] < 500
    assert 0 < got["import_seconds"] < got["seconds"]
    with pytest.raises(RuntimeError, match=r"two ended with 1: \['ValueError: why'\]"):
        startup._process(tmp_path, "two", ["-c", "raise ValueError('why')"])


def test_the_table_has_the_medians_of_the_pairs_and_stages_of_today_alone() -> None:
    runs: list[dict[str, Any]] = [
        {"load": 0.5, "baseline": figures(4.0, "ingest"), "today": figures(scale, "ingest", "collect")}
        for scale in (1.0, 9.0, 2.0)
    ]
    builds = startup.summary(runs)
    assert startup.total(builds["today"], "import_seconds") == 4.0
    result = {"builds": builds, "runs": runs, "processor": "some", "cores": 2, "against": "abc"}
    shown = startup.table(result | {"targets": {next(iter(startup.TARGET)): 0.5}})
    assert "| ingest | 2.0 | 1.0 | 4.00 | 10 | 100 | 2.0 | 1.0 | 2.00 | 10 | 100 |" in shown
    assert "| collect |  |  |  |  |  | 2.0 | 1.0 | 2.00 | 10 | 100 |" in shown
    assert "share of the baseline's: 0.50 (asked: at most 0.5)" in shown
