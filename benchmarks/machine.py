"""The machine that a benchmark ran on: its processor, its cores, and results that are named by both."""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path
from typing import Any

FACTS = Path("/proc/cpuinfo")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of the processor; its architecture if Linux does not tell the name."""
    match = re.search(r"^model name\s*:\s*(.*)$", FACTS.read_text(), re.M) if FACTS.exists() else None
    return match[1] if match else platform.processor() or platform.machine()


# Of a processor's flags in Linux, those that decide how fast products of matrices are, the best first.
_INSTRUCTIONS = {
    "amx_bf16": "amx",
    "avx512_bf16": "avx512-bf16",
    "avx512f": "avx512",
    "avx2": "avx2",
    "asimd": "neon",
}


def instructions() -> str:
    """The best instructions for products of matrices that the processor has; "" if Linux does not tell.

    Processors of one name differ in them by years, and by a factor of a hundred in bfloat16.
    """
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", FACTS.read_text(), re.M) if FACTS.exists() else None
    flags = match[1].split() if match else []
    return next((name for flag, name in _INSTRUCTIONS.items() if flag in flags), "")


def file_name(kind: str, date: str, name: str, cores: int | None = None) -> str:
    """The name of a result: <kind>-<date>-<machine>.json, as in ppo-2026-11-23-intel-xeon-amx-2-cores.json.

    Args:
        name: of the processor or of the GPU.
        cores: None for a result of a GPU.
    """
    name = re.sub(r"\((r|tm)\)|processor|cpu|@.*|\d+-core", "", name.lower())
    words = [*re.findall(r"[a-z0-9.]+", name)] or ["unknown"]
    words += [instructions(), f"{cores}-cores"] if cores else []
    return "-".join([kind, date, *filter(None, words)]) + ".json"


def keep(kind: str, result: dict[str, Any], folder: Path) -> None:
    """Write a result into a folder, by `file_name`; it has its `date`."""
    file = folder / file_name(kind, result["date"], processor(), cores())
    file.parent.mkdir(parents=True, exist_ok=True)  # an hour of runs must not be lost for want of it
    file.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
