"""The machine that a benchmark ran on: its processor, and the cores that were allowed."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of the processor; its architecture if Linux does not tell the name."""
    facts = Path("/proc/cpuinfo")
    match = re.search(r"^model name\s*:\s*(.*)$", facts.read_text(), re.M) if facts.exists() else None
    return match[1] if match else platform.processor() or platform.machine()
