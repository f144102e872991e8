"""The benchmark of the data stages: its rows, its medians, and that both sides are measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import data


def run(rows: int, baseline: float | None, today: float, memory: float = 100.0) -> dict[str, Any]:
    def figures(seconds: float, memory: float) -> data.Figures:
        return {
            stage: {"seconds": seconds / 3, "cpu_seconds": 1.0, "memory_mb": memory + i}
            for i, stage in enumerate(data.STAGES)
        }

    old = None if baseline is None else figures(baseline, 4 * memory)
    return {"rows": rows, "bytes": 1, "load": 0.5, "baseline": old, "today": figures(today, memory)}


def test_rows_are_comparisons_of_about_a_kilobyte_two_by_a_prompt(tmp_path: Path) -> None:
    size = data.write_rows(tmp_path / "a", 200)
    assert 800 < size / 200 < 1200
    lines = (tmp_path / "a/comparisons.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert (len(rows), len({row["prompt"] for row in rows})) == (200, 100)
    data.write_rows(tmp_path / "b", 200)
    assert (tmp_path / "b/comparisons.jsonl").read_text().splitlines() == lines


def test_ratios_are_taken_within_pairs_and_the_median_counts() -> None:
    runs = [run(200_000, 40, 10), run(200_000, 90, 10), run(200_000, 60, 30), run(1_000_000, None, 120, 900)]
    two, million = data.summary(runs)
    assert two["faster"] == pytest.approx(4.0)  # of 4, 9 and 2
    assert two["memory"] == pytest.approx(102 / 402)
    assert two["baseline"]["seconds"] == pytest.approx(60)
    assert "baseline" not in million
    figures = data.reached([two, million])
    assert list(figures) == list(data.TARGETS)
    assert list(figures.values()) == pytest.approx([4.0, 102 / 402, 0.902, 2.0])
    shown = data.table(
        {"sizes": [two, million], "targets": figures, "runs": runs, "against": "abc"}
        | {"processor": "some", "cores": 2}
    )
    assert "| 200,000 | baseline | 60.0 | 3,333 | 402 |" in shown
    assert "minutes: 2.00 (asked: at most 3)" in shown


def test_a_build_without_a_key_goes_without_it(tmp_path: Path) -> None:
    values: dict[str, Any] = {"ingest": {"source": "builtin"}, "base": {"context": 1}, "prepare": {}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    data.change_params(tmp_path)
    changed = yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert changed == {"ingest": {"source": "files"}, "base": {"context": 2048}, "prepare": {}}


def test_a_stage_that_fails_is_named_with_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("ingest: {path: null}\n")
    stages = {stage: {"cmd": "python -c 'print(1); raise SystemExit(3)'"} for stage in data.STAGES}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    with pytest.raises(RuntimeError, match="ingest ended with 3: 1"):
        data.measured(tmp_path, tmp_path)
    for stage in stages.values():
        stage["cmd"] = "python -c 'pass'"
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    figures = data.measured(tmp_path, tmp_path)
    assert list(figures) == list(data.STAGES)
    assert all(0 < stage["cpu_seconds"] < 20 and stage["memory_mb"] > 3 for stage in figures.values())
