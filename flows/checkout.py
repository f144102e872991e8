"""What a folder must be for a run to start in it: a git repository with a commit, whole files, room to write.

Anything else is refused before a server starts, in one line that says how to mend it. A run would otherwise
end in the middle, with an error of git or DVC about a file in its worktree that the user never saw.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

import yaml

from rlhf.data.disk import disk_fault
from rlhf.data.errors import DataError
from tasks.runtime.errors import StageError
from tasks.runtime.places import state_dir

LOCK, GRAPH = Path("dvc.lock"), Path("dvc.yaml")
_MARKER = re.compile(r"^(<{7}|>{7})( |$)")
_BEGIN = "git init && git add --all && git commit --message start"


def refuse_checkout() -> None:
    """Refuse the working directory where no run can start in it.

    Raises:
        StageError: it is no git repository of its own or has no commit, or nothing can be written there.
        DataError: dvc.yaml or dvc.lock cannot be read.
    """
    here = Path.cwd()
    top, said = _git("rev-parse", "--show-toplevel")
    if not top and "not a git repository" in said:
        raise StageError(
            f"{here} is in no git repository, and a run works in a git worktree: clone the repository in "
            f"place of unpacking an archive, or begin one here: {_BEGIN}"
        )
    if not top:
        raise StageError(f"git cannot read the repository of {here}: {said}")
    if Path(top).resolve() != here.resolve():
        raise StageError(
            f"{here} is inside another git repository, {top}, which runs would save their experiments in; "
            f"move it out, or make it a repository of its own: {_BEGIN}"
        )
    if not _git("rev-parse", "--verify", "--quiet", "HEAD^{commit}")[0]:
        raise StageError(
            "this git repository has no commit yet, and a run is based on one: git add --all && git commit "
            "--message start"
        )
    for path in (GRAPH, LOCK):
        refuse_conflict(path)
        _refuse_no_mapping(path)
    common, _ = _git("rev-parse", "--path-format=absolute", "--git-common-dir")
    for folder in (here, Path(common), here / ".dvc", state_dir()):
        _refuse_unwritable(folder)


def refuse_conflict(path: Path) -> None:
    """Refuse a file in which a merge has left its marks; a file that is not there is none of them.

    Raises:
        DataError: the line of the first mark, and how to mend it.
    """
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return  # whoever reads it says what is wrong
    for number, line in enumerate(lines, 1):
        if _MARKER.match(line):
            mend = f"take one side whole: git checkout --ours {path} (or --theirs)"
            if path.name == LOCK.name:
                mend += ", or delete the file: the next run writes it again and repeats no finished stage"
            else:
                mend = f"keep the lines that hold and delete the marks, or {mend}"
            raise DataError(f"{path}, line {number}: a merge left its conflict here ({line[:7]}); {mend}")


def _refuse_no_mapping(path: Path) -> None:
    """Refuse a file of DVC's that is cut short or otherwise no YAML; dvc.lock need not exist."""
    try:
        values = yaml.load(path.read_bytes(), yaml.CSafeLoader)
    except FileNotFoundError:
        if path == GRAPH:
            raise DataError(f"{path}: no such file in {Path.cwd()}; start runs in the checkout") from None
        return
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        said = f"not valid YAML: {' '.join(str(error).split())}"
    else:
        if values is None or isinstance(values, dict):
            return
        said = f"expected a mapping, got {type(values).__name__}"
    raise DataError(
        f"{path}: {said}; git checkout HEAD {path} brings back the file of the last commit"
        + (", and without the file the next run writes it again" if path == LOCK else "")
    )


def _refuse_unwritable(folder: Path) -> None:
    """Refuse a folder in which a run could not write; one that is not there yet, by the folder above it."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(bytes(4096))
    except OSError as error:
        raise StageError(disk_fault(error, there) or f"{there} cannot be written: {error}") from None


def _git(*arguments: str) -> tuple[str, str]:
    """What git answers, empty where it fails, and its error in a line.

    Raises:
        StageError: there is no git.
    """
    try:
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env={**os.environ, "LC_ALL": "C"},  # its errors are read here
            check=False,
        )
    except FileNotFoundError:
        raise StageError("there is no command git, and a run works in a git worktree; install git") from None
    return (done.stdout.strip() if done.returncode == 0 else ""), " ".join(done.stderr.split())
