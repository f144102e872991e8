"""The benchmark of the main job: its ratios, its table, what it says of a stage that fails."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import main_job, stage_runs


def figures(seconds: float, memory: float, base: str = "base") -> dict[str, Any]:
    stages = {
        name: {"seconds": seconds / 2, "cpu_seconds": seconds, "memory_mb": memory} for name in (base, "sft")
    }
    rates = {"sft": {"rate": 0.6, "low": 0.57, "high": 0.63}}
    return {
        "stages": stages,
        "seconds": seconds,
        "cpu_seconds": 2 * seconds,
        "memory_mb": memory,
        "rates": rates,
    }


def test_ratios_are_taken_within_pairs_and_the_table_has_their_medians() -> None:
    pairs: list[dict[str, Any]] = [
        {
            "seed": 17 + i,
            "load": 0.5,
            "baseline": figures(before, 100.0, "pretrain"),
            "today": figures(today, 90.0),
        }
        for i, (before, today) in enumerate([(100.0, 50.0), (300.0, 210.0), (200.0, 100.0)])
    ]
    ratios = main_job.ratios(pairs)
    assert ratios["against"] == {"median": 0.5, "min": 0.5, "max": 0.7}
    assert ratios["memory"]["median"] == 0.9
    result = {"ratios": ratios, "pairs": pairs, "processor": "some", "cores": 2, "commit": "a" * 40}
    shown = main_job.table(result | {"against": "b"})
    assert "| base | 100.0 | 50.0 |" in shown  # the stage that the baseline calls pretrain
    assert "| all stages, s | 200.0 | 100.0 |" in shown
    assert "| 18 | sft 0.600 (0.570 to 0.630) | sft 0.600 (0.570 to 0.630) |" in shown
    assert "share of the baseline's: 0.50 (0.50 to 0.70; asked: at most 0.6)" in shown


def test_busy_programs_end_with_the_run() -> None:
    me = psutil.Process()
    before = set(me.children())
    with main_job.busy(2):
        beside = set(me.children()) - before
        assert len(beside) == 2
        time.sleep(0.2)
        assert all(process.is_running() for process in beside)
    assert set(me.children()) == before


def test_a_stage_that_fails_ends_the_measurement_with_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {one: {cmd: python -c 'raise ValueError(1)', outs: [a/b]}}")
    with pytest.raises(RuntimeError, match=r"one ended with 1: \['ValueError: 1'\]"):
        stage_runs.run_stages(tmp_path)
    assert (tmp_path / "a").is_dir()
    figures = stage_runs.run_stage(tmp_path, "two", ["-c", "x = bytearray(50_000_000)"])
    assert figures["memory_mb"] > 50
    assert 0 < figures["cpu_seconds"] <= figures["seconds"] + 1
