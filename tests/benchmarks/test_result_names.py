"""How results are named: by kind, date, machine and what its processor can do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import machine


@pytest.mark.parametrize(
    ("processor", "words"),
    [
        ("Intel(R) Xeon(R) Processor", "intel-xeon"),
        ("AMD EPYC 7B13 64-Core Processor", "amd-epyc-7b13"),
        ("Intel(R) Core(TM) i7-1185G7 @ 3.00GHz", "intel-core-i7-1185g7"),
        ("", "unknown"),
    ],
)
def test_a_name_has_the_processor_without_its_ornaments(
    processor: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "instructions", lambda: "avx2")
    name = machine.file_name("ppo", "2026-12-01", processor, 2)
    assert name == f"ppo-2026-12-01-{words}-avx2-2-cores.json"


def test_a_result_of_a_gpu_names_the_gpu_alone() -> None:
    assert machine.file_name("ppo", "2026-12-01", "NVIDIA H200") == "ppo-2026-12-01-nvidia-h200.json"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile", "amx"),
        ("flags\t\t: fpu avx2 avx512f avx512_bf16", "avx512-bf16"),
        ("flags\t\t: fpu avx2 avx512f", "avx512"),
        ("flags\t\t: fpu avx2", "avx2"),
        ("Features\t: fp asimd crc32", "neon"),
        ("flags\t\t: fpu sse2", ""),
        ("", ""),
    ],
)
def test_the_best_instructions_are_named(
    facts: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{facts}\n")
    monkeypatch.setattr(machine, "FACTS", tmp_path / "cpuinfo")
    assert machine.instructions() == expected


def test_a_result_makes_its_folder(tmp_path: Path) -> None:
    machine.keep("some", {"date": "2026-12-01", "figure": 1}, tmp_path / "new")
    [file] = (tmp_path / "new").iterdir()
    assert file.name.startswith("some-2026-12-01-")
    assert json.loads(file.read_text())["figure"] == 1
