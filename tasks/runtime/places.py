"""Where things are: the main checkout, its state folder, the commit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from rlhf.data.private import private_folder

CODE = ("rlhf/", "tasks/", "labeling/", "flows/", "mlflow/")
# In a run's worktree: the dvc.lock that the checkout had. The worktree's own begins empty, because a stage
# has outputs only once it has ended in this run; a run that ends early would otherwise show another's.
KNOWN = Path(".dvc/tmp/checkout.lock")


def state_dir() -> Path:
    """Where services keep their state: `.state` in the main checkout, shared by its worktrees."""
    if os.environ.get("RLHF_STATE"):
        return Path(os.environ["RLHF_STATE"]).resolve()
    return main_checkout() / ".state"


def state_folder(name: str = "") -> Path:
    """The state folder, or one in it, for its owner alone; made where it is missing."""
    state = state_dir()
    if os.environ.get("RLHF_STATE"):  # it may be a folder in which more lies: that one is not ours to close
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    else:
        private_folder(state)
    return private_folder(state / name) if name else state


def main_checkout() -> Path:
    """The checkout whose worktree this is, or which this is; the working directory outside git.

    An unpacked archive inside another repository is a checkout of its own: that repository gets nothing.
    """
    common, _, top = _git(
        "rev-parse", "--path-format=absolute", "--git-common-dir", "--show-toplevel"
    ).partition("\n")
    return _unpacked(top) or (Path(common).parent if common else Path.cwd())


def _unpacked(top: str) -> Path | None:
    """The checkout of the working directory where it lies inside the repository of something else."""
    here = Path.cwd()
    ours = next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), None)
    return ours if ours and top and ours != Path(top) and ours.is_relative_to(top) else None


def git_commit() -> str:
    """The checkout's commit, with `-dirty` when what a stage could run is not what the commit holds.

    Parameters and data do not count, because they are recorded separately. A new file counts only among our
    code: in a run's worktree git knows all new files of the checkout, leftovers included. Empty outside git,
    and in another's repository, whose commit says nothing of our code.
    """
    top, _, commit = _git("rev-parse", "--show-toplevel", "HEAD").partition("\n")
    if _unpacked(top):
        return ""
    recorded = (":!dvc.lock", ":!params.yaml", ":!data")
    states = _git("status", "--porcelain", "--untracked-files=all", "--", ".", *recorded) if commit else ""
    changes = [line.split(maxsplit=1) for line in states.splitlines()]
    new = ("??", "A", "AM")
    dirty = any(state not in new or path.strip('"').startswith(CODE) for state, path in changes)
    return commit + ("-dirty" if dirty else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, encoding="utf-8", errors="surrogateescape", check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""
