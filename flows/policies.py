"""A trained policy by name: a version in the registry, a run, or a folder; its files and how it was judged.

What `make serve` and `make export` take as MODEL.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.past_params import load_past, past_settings
from flows.trace import fetch, find_version
from flows.workspace import RUNS, experiments
from rlhf.data.errors import DataError
from rlhf.settings import Evaluate, Settings, params_of
from tasks.runtime.errors import StageError
from tasks.runtime.registry import POLICY, policy_folder

BASE = Path("models/pretrained")  # on which adapters sit
MODEL_HELP = "models:/NAME@ALIAS, models:/NAME/VERSION, the name of a run, or a model folder"


@dataclass(frozen=True)
class NamedPolicy:
    """A policy that a person named.

    Attributes:
        name: as it was named.
        names: what it can be called: `rlhf-policy`, `rlhf-policy/3`, `rlhf-policy@champion`, `models:/...`.
        folder: its model folder, which lasts as long as the context that `named_policy` opens.
        temperature, longest: as it was sampled where it was judged; where that is not known, the defaults.
        evaluated: whether it is known.
        version: in the registry; None for a run and a folder.
        file: reads a file of the run that made it, by its path there; None where it is gone or there is no
            run.
    """

    name: str
    names: tuple[str, ...]
    folder: Path
    temperature: float
    longest: int
    evaluated: bool
    version: Any
    file: Callable[[str], bytes | None]


@contextmanager
def named_policy(name: str) -> Iterator[NamedPolicy]:
    """Open a policy by name.

    Args:
        name: see `MODEL_HELP`.

    Raises:
        DataError: there is none, or its files are missing or changed.
    """
    if name.startswith("models:/"):
        yield _registered(name)
    elif re.fullmatch(r"[\w-]+", name) and not Path(name).exists():
        commit = _experiments().get(name)
        if (RUNS / name / POLICY).is_dir():
            yield _in_checkout(name, (name,), RUNS / name)
        elif commit:
            with tempfile.TemporaryDirectory() as folder:
                yield _fetched(name, commit, Path(folder))
        elif (RUNS / name).is_dir():
            raise DataError(f"{name}: the run has no {POLICY}: it failed or ended before PPO did")
        else:
            yield _in_folder(name)
    else:
        yield _in_folder(name)


def _experiments() -> dict[str, str]:
    with suppress(StageError):  # not in a checkout
        return experiments()
    return {}


def _registered(name: str) -> NamedPolicy:
    from mlflow.models import get_model_info

    version = find_version(name)
    folder = policy_folder(version)
    if folder is None:
        raise DataError(
            f"{name}: its files are missing or were changed in MLflow's artifact store; restore them"
        )
    uri = f"{version.name}/{version.version}"
    chosen = get_model_info(f"models:/{uri}").flavors["python_function"].get("config") or {}
    names = (version.name, uri, *(f"{version.name}@{alias}" for alias in sorted(version.aliases)))
    return NamedPolicy(
        name,
        (*names, *(f"models:/{known}" for known in names[1:])),
        folder,
        float(chosen["temperature"]),
        int(chosen["max_new_tokens"]),
        True,
        version,
        _files_of_version(version),
    )


def _files_of_version(version: Any) -> Callable[[str], bytes | None]:
    """Reads the files of the experiment of a version."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    with suppress(MlflowException):  # a version outlives its run
        parent = client.get_run(version.run_id).data.tags.get("mlflow.parentRunId")
        commit = client.get_run(parent).data.tags.get("dvc_commit") if parent else None
        if commit:
            return lambda path: _of_commit(commit, path)
    return lambda path: None


def _of_commit(commit: str, path: str) -> bytes | None:
    with tempfile.TemporaryDirectory() as folder:
        fetched = fetch(commit, path, Path(folder, "file"))
        return fetched.read_bytes() if fetched else None


def _fetched(name: str, commit: str, folder: Path) -> NamedPolicy:
    """A run's policy out of DVC's cache or remote."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    origin = f"{name}: params.yaml"
    settings = past_settings(params_of(_of_commit(commit, "params.yaml") or b"", origin), origin)
    files = DVCFileSystem(str(Path.cwd()), rev=commit)
    try:
        files.get(str(POLICY), str(folder / POLICY), recursive=True)
        if (folder / POLICY / "adapter_config.json").exists():
            files.get(str(BASE), str(folder / BASE), recursive=True)
    except (DvcException, OSError):
        raise DataError(
            f"{name}: {POLICY} of its commit {commit[:12]} is not in DVC's cache; `dvc pull` may bring it"
        ) from None
    return _of_run(name, (name,), folder / POLICY, settings, lambda path: _of_commit(commit, path))


def _in_checkout(name: str, names: tuple[str, ...], tree: Path) -> NamedPolicy:
    """The policy of a checkout or of a run's worktree."""

    def read(path: str) -> bytes | None:
        return (tree / path).read_bytes() if (tree / path).is_file() else None

    return _of_run(name, names, tree / POLICY, load_past(tree / "params.yaml"), read)


def _of_run(
    name: str, names: tuple[str, ...], folder: Path, settings: Settings, file: Callable[[str], bytes | None]
) -> NamedPolicy:
    evaluate = settings.evaluate
    return NamedPolicy(name, names, folder, evaluate.temperature, evaluate.response_length, True, None, file)


def _in_folder(name: str) -> NamedPolicy:
    """A model folder; if it is the policy of a checkout, that checkout says how it was judged."""
    folder = Path(name)
    if not any((folder / config).is_file() for config in ("config.json", "adapter_config.json")):
        raise DataError(f"{name}: no registered version, no run and no model folder; MODEL is {MODEL_HELP}")
    tree = folder.resolve().parent.parent
    if folder.resolve() == tree / POLICY and (tree / "params.yaml").is_file():
        return _in_checkout(name, (folder.resolve().name,), tree)
    known = {}
    with suppress(OSError, ValueError):
        known = json.loads((folder / "generation_config.json").read_text())
    defaults = Evaluate()
    temperature = known.get("temperature", 0.0 if known.get("do_sample") is False else defaults.temperature)
    longest = known.get("max_new_tokens") or defaults.response_length
    evaluated = "max_new_tokens" in known
    names = (folder.resolve().name,)
    return NamedPolicy(name, names, folder, temperature, longest, evaluated, None, lambda path: None)
