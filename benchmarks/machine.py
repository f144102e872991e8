"""The machine that a benchmark ran on: its processor, its cores, and results that are named by both."""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path
from typing import Any


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of the processor; its architecture if Linux does not tell the name."""
    facts = Path("/proc/cpuinfo")
    match = re.search(r"^model name\s*:\s*(.*)$", facts.read_text(), re.M) if facts.exists() else None
    return match[1] if match else platform.processor() or platform.machine()


def keep(kind: str, result: dict[str, Any], folder: Path) -> None:
    """Write a result to <kind>-<date>-<machine>-<n>-cores.json in a folder; it has its `date`."""
    name = "-".join(processor().lower().split()[:2])
    file = folder / f"{kind}-{result['date']}-{name}-{cores()}-cores.json"
    file.parent.mkdir(parents=True, exist_ok=True)  # an hour of runs must not be lost for want of it
    file.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
