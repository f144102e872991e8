"""The commands of docs/production.md that back up and restore, for tests to run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import PATIENCE, ROOT


def documented(block: str) -> str:
    """The lines of the block with this name."""
    text = (ROOT / "docs/production.md").read_text()
    [lines] = re.findall(rf"^```sh {block}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    # The environment of the tests is installed already, and is the clone's.
    return lines.replace("make .venv/.installed\n", f"ln -s '{sys.prefix}' .venv\n")


def follow(block: str, folder: Path, programs: str = "", **names: str) -> None:
    """Do as the page says, in a folder; any line that fails ends it.

    Args:
        programs: a folder of programs that the lines need, beside those of the environment.
        names: variables that the page leaves to its reader.
    """
    path = os.pathsep.join(filter(None, [str(Path(sys.executable).parent), programs, os.environ["PATH"]]))
    done = subprocess.run(
        ["bash", "-euc", documented(block)],
        cwd=folder,
        env={**os.environ, "DVC_NO_ANALYTICS": "1", **names, "PATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
