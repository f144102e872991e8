"""A clone of this checkout as a user has one, in the sizes of the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from conftest import ROOT, SMALL

IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.org")


def clone_project(clone: Path, changes: dict[str, Any] | None = None) -> None:
    """Clone this checkout, what is not committed yet included, and commit small parameters there.

    Args:
        clone: the folder to make.
        changes: dotted keys of params.yaml and their values, over the sizes of the tests.
    """
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    changed = ["git", "ls-files", "-z", "--modified", "--others", "--exclude-standard"]
    listed = subprocess.run(changed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, clone / name)
    (clone / ".venv").symlink_to(sys.prefix)
    write_params(clone, SMALL | (changes or {}))
    subprocess.run(["git", "add", "-A"], cwd=clone, check=True)
    subprocess.run(["git", *IDENTITY, "commit", "-qm", "small"], cwd=clone, check=True)


def write_params(clone: Path, changes: dict[str, Any]) -> None:
    """Write the default parameters with changes by dotted keys; values are not checked."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in changes.items():
        inner = values
        *sections, last = key.split(".")
        for section in sections:
            inner = inner[section]
        inner[last] = value
    (clone / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
