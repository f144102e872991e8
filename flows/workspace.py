"""A run's git worktree, `.runs/<name of the run>`, which becomes a DVC experiment when the run ends.

The worktree holds the checkout as it is when the run starts, uncommitted and new files included, and shares
its DVC cache, checkpoints and state folder. The experiment has the run's name. The checkout itself is only
touched by `bring`, which puts a run's result there.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path

from flows.machine import living
from flows.params import write_params
from rlhf.settings import Settings, load_settings
from tasks.runtime.errors import StageError
from tasks.runtime.faults import full_disk, machine_fault
from tasks.runtime.places import KNOWN

RUNS = Path(".runs")
KEPT = 10  # worktrees; older ones are removed, their experiments and outputs stay in DVC
OWNER = Path(".dvc/tmp/flow-run")  # in a worktree: the id of the flow run that it belongs to
REWARD_MODEL = Path("data/reward-model")
INCOMING = Path("data/incoming")  # where users put their own data, which neither git nor DVC tracks


def free_name(wanted: str, owner: str) -> str:
    """The name of a run in Prefect, DVC and MLflow: `wanted` where it can name a git ref and is not taken.

    Args:
        wanted: the flow run's name.
        owner: the flow run's id; a run that is tried again keeps its name.
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", wanted).strip("-") or "run"
    tree = RUNS / name
    if _owner(tree) == owner:
        return name
    taken = tree.exists() or name in experiments()
    return f"{name}-{owner[:8]}" if taken else name


def experiments() -> dict[str, str]:
    """Names and commits of the DVC experiments, under whatever commit they were saved."""
    lines = _git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps/").splitlines()
    refs = [line.split() for line in lines if re.match(r"refs/exps/[0-9a-f]{2}/", line)]
    return {ref.rsplit("/", 1)[1]: commit for ref, commit in refs}


def snapshot() -> str:
    """The git tree of the checkout as it is, new files included, `data/incoming` left out.

    Nothing in the checkout changes, its index included.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder, "index")
        real = Path(_git("rev-parse", "--git-path", "index"))
        if real.exists():
            shutil.copyfile(real, index)
        _git("add", "--update", index=index)
        untracked = _git("ls-files", "-z", "--others", "--exclude-standard", index=index).split("\0")
        names = [name for name in untracked if name and not Path(name).is_relative_to(INCOMING)]
        _git("update-index", "--add", "-z", "--stdin", index=index, stdin="\0".join(names))
        return _git("write-tree", index=index)


def up_to_date(settings: Settings) -> bool:
    """Whether the checkout has these parameters and the outputs of every stage for them.

    Raises:
        StageError: DVC cannot say.
    """
    from dvc.repo import Repo

    if load_settings(Path("params.yaml")) != settings:
        return False
    with dvc_said(), Repo(_wait_for_lock=True) as repo:
        return not repo.status()


@contextmanager
def dvc_said() -> Iterator[None]:
    """Let DVC's errors be a line.

    Raises:
        StageError: DVC raised one.
    """
    from dvc.exceptions import DvcException

    try:
        yield
    except DvcException as error:
        raise StageError(machine_fault(error) or f"DVC: {' '.join(str(error).split())}") from error


def enter(name: str, owner: str, settings: Settings) -> Path:
    """The run's worktree, made unless it exists, with the run's parameters in its params.yaml."""
    tree = (RUNS / name).resolve()
    if _owner(tree) != owner:
        _remove_old()
        open_worktree(tree, "HEAD", snapshot())
        (tree / OWNER).parent.mkdir(parents=True, exist_ok=True)
        (tree / OWNER).write_text(owner)
    write_params(tree / "params.yaml", settings)
    link_data(settings, tree)
    return tree


def open_worktree(tree: Path, commit: str, content: str, cache: bool = True) -> None:
    """A git worktree at a commit that holds the files of the tree `content`, and no outputs of stages.

    A stage has outputs there, and an entry in dvc.lock, only once it has ended there. The dvc.lock of
    `content` is laid aside: a stage whose inputs still match takes its entry from there (`Dvc` in
    flows/dvc_process.py).

    Args:
        tree: the folder to make.
        commit: what the experiment of the worktree will be based on.
        content: a git tree or commit.
        cache: share the checkout's DVC cache; else it starts with an empty one.
    """
    from configobj import ConfigObj
    from dvc.repo import Repo

    shutil.rmtree(tree, ignore_errors=True)
    _git("worktree", "prune")
    _git("worktree", "add", "--quiet", "--no-checkout", "--detach", str(tree), commit)
    _git("-C", str(tree), "read-tree", "-u", "--reset", content)
    (tree / KNOWN).parent.mkdir(parents=True, exist_ok=True)
    if (tree / "dvc.lock").exists():
        (tree / "dvc.lock").rename(tree / KNOWN)
    local = Path(".dvc/config.local")
    if local.exists():  # remotes and their credentials, link types
        shutil.copyfile(local, tree / local)
    if cache:
        with Repo() as here:
            shared = here.cache.local_cache_dir
        # DVC itself cannot write a path with a letter that is not ASCII into its settings.
        config = ConfigObj(str(tree / local), encoding="utf-8")
        config.setdefault("cache", {})["dir"] = shared
        config.write()


def link_data(settings: Settings, tree: Path) -> None:
    """Link the user's own data and reward model, which git does not track, into the worktree."""
    if settings.ppo.reward_model == "given":
        shutil.copytree(REWARD_MODEL, tree / REWARD_MODEL, copy_function=_link, dirs_exist_ok=True)
    path = settings.ingest.path
    if settings.ingest.source == "builtin" or not path or Path(path).is_absolute():
        return
    named = [path] if Path(path).exists() else sorted(glob(path, recursive=True))
    for source in map(Path, named):
        target = tree / source
        if source.is_dir():
            shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(str(source), str(target))


def save_experiment(name: str, stages: list[str], message: str) -> str:
    """Save the working directory, a worktree in which these stages ran, as a DVC experiment.

    Returns:
        the experiment's commit.
    """
    from dvc.repo import Repo

    for role in ("AUTHOR", "COMMITTER"):  # git refuses to commit where nobody has configured a user
        for what, default in (("NAME", "rlhf-pipeline"), ("EMAIL", "rlhf-pipeline@localhost")):
            if not _configured(f"user.{what.lower()}"):
                os.environ.setdefault(f"GIT_{role}_{what}", default)
    with dvc_said(), Repo() as repo:
        return repo.experiments.save(stages, name=name, force=True, message=message)


def bring(tree: Path, before: str) -> list[str] | None:
    """Put a run's parameters, dvc.lock and outputs into the checkout.

    Args:
        tree: the run's worktree.
        before: the checkout's `snapshot` when the run started.

    Returns:
        the parameters that changed, `key: old -> new`; None where the checkout has changed since: it stays.

    Raises:
        StageError: not every output could be put there.
    """
    from dvc.repo import Repo

    if snapshot() != before:
        return None
    changed = write_params(Path("params.yaml"), load_settings(tree / "params.yaml"))
    shutil.copyfile(tree / "dvc.lock", "dvc.lock")
    # At its own level DVC warns of every output of a stage that was not run.
    logging.getLogger("dvc_data").setLevel(logging.ERROR)
    with dvc_said(), Repo(_wait_for_lock=True) as repo:
        # Outputs that the run did not make are removed: they are another run's. DVC also goes on where it
        # could not write one, so all of them are looked for.
        repo.checkout(force=True, allow_missing=True)
        lost = [str(out) for out in repo.index.outs if out.use_cache and out.hash_info and not out.exists]
    if lost:
        raise StageError(
            f"{lost[0]} could not be put into the checkout"
            + (f", and {len(lost) - 1} more outputs" if len(lost) > 1 else "")
            + f"; the result is safe as the experiment {tree.name}: make room and give yourself the right to "
            "write here, then `dvc checkout` brings it"
        )
    return changed


def _owner(tree: Path) -> str | None:
    path = tree / OWNER
    return path.read_text() if path.exists() else None


def _remove_old() -> None:
    """Remove all but the newest worktrees and those of runs that are still going on."""
    busy = {record.folder for record in living()}
    trees = sorted((path for path in RUNS.glob("*") if path.is_dir()), key=lambda path: -path.stat().st_mtime)
    for tree in trees[KEPT:]:
        if str(tree.resolve()) not in busy:
            shutil.rmtree(tree, ignore_errors=True)


def _link(source: str, target: str) -> None:
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _configured(setting: str) -> bool:
    return bool(subprocess.run(["git", "config", setting], capture_output=True, check=False).stdout.strip())


def _git(*arguments: str, index: Path | None = None, stdin: str = "") -> str:
    env = {**os.environ, "GIT_INDEX_FILE": str(index)} if index else None
    done = subprocess.run(
        ["git", *arguments],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",  # names of files are bytes
        check=False,
        env=env,
    )
    if done.returncode != 0:
        if fault := full_disk(done.stderr, RUNS):
            raise StageError(fault)
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise StageError(f"a run works in a git worktree, and git {arguments[0]} failed: {lines[-1]}")
    return done.stdout.strip()
