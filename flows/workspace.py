"""Where a run works and with which parameters: the checkout itself, or a git worktree of its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from rlhf.settings import Settings, SettingsError, check_settings, known_keys, load_settings
from rlhf.sources import source_hash
from tasks.context import StageError


def plan(recipe: str | None, data: str | None, changes: dict[str, Any]) -> Settings:
    """The validated parameters of a run; nothing is written.

    Args:
        recipe: name of a file in `recipes/`, or a path to one; None takes params.yaml.
        data: file or folder that `ingest` reads; its hash becomes a parameter.
        changes: dotted keys and the values to set.

    Raises:
        SettingsError: unknown recipe or key, a bad value, or data that is not there.
    """
    path = recipe_file(recipe) if recipe else Path("params.yaml")
    values = load_settings(path).model_dump(by_alias=True)
    for key, value in changes.items():
        _set(values, key, value)
    if data is not None:
        source = Path(data).expanduser().resolve()
        if not source.exists():
            raise SettingsError(f"--data {data}: no such file or folder")
        if values["ingest"]["source"] == "builtin":
            raise SettingsError(f"--data {data}: {path} reads no file (ingest.source is builtin)")
        values["ingest"] |= {"path": str(source), "sha256": source_hash(source)}
    settings = check_settings(values, f"{path} with --set" if changes else str(path))
    if settings.ingest.source != "builtin" and not settings.ingest.path:
        raise SettingsError(f"{path}: ingest.source {settings.ingest.source} needs data: add --data PATH")
    return settings


def recipe_file(recipe: str) -> Path:
    """The params file of a recipe given by name or path."""
    for path in (Path("recipes") / f"{recipe}.yaml", Path(recipe)):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in Path("recipes").glob("*.yaml"))) or "none yet"
    raise SettingsError(f"--recipe {recipe}: no such recipe or file; recipes/ has {known}")


def enter(recipe: str | None, settings: Settings) -> Path:
    """Make the parameters true on disk and return the folder to run in.

    Without a recipe that is this checkout, and params.yaml is changed where `settings` differs. A recipe gets
    the worktree `.runs/<recipe>`, so that it never disturbs the checkout; both share one DVC cache.
    """
    if recipe is None:
        for line in write_params(Path("params.yaml"), settings):
            print(f"params.yaml: {line}")
        return Path.cwd()
    tree = _worktree(recipe_file(recipe).stem)
    header = (
        f"# The parameters of this run, written from {recipe_file(recipe)}; changes here are overwritten.\n"
    )
    text = yaml.safe_dump(settings.model_dump(by_alias=True), sort_keys=False, allow_unicode=True)
    (tree / "params.yaml").write_text(header + text)
    return tree


def write_params(path: Path, settings: Settings) -> list[str]:
    """Write the values that differ into a params file, comments kept; returns `key: old -> new` lines."""
    from dvc.utils.serialize import modify_yaml

    old, new = load_settings(path).model_dump(by_alias=True), settings.model_dump(by_alias=True)
    changed = []
    for key in known_keys():
        before, after = _get(old, key), _get(new, key)
        if before != after:
            changed.append(f"{key}: {before} -> {after}")
    if changed:
        with modify_yaml(path) as values:
            for line in changed:
                key = line.split(":")[0]
                _set(values, key, _get(new, key), create=True)
    return changed


def parse_changes(words: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` words as dotted keys and values; values are YAML (`3`, `1e-3`, `null`, `word`)."""
    changes = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise SettingsError(f"--set {word}: expected KEY=VALUE, such as ppo.kl_coef=0.1")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise SettingsError(f"--set {word}: the value is not valid YAML") from None
    return changes


def _worktree(name: str) -> Path:
    """The git worktree `.runs/<name>` at the checkout's state, uncommitted changes included."""
    from dvc.repo import Repo

    tree = Path(".runs", name).resolve()
    commit = _git("stash", "create") or _git("rev-parse", "HEAD")
    if (tree / ".git").exists():
        lock = tree / "dvc.lock"  # what this worktree has run is its own
        kept = lock.read_bytes() if lock.exists() else None
        _git("-C", str(tree), "checkout", "--quiet", "--detach", "--force", commit)
        if kept is not None:
            lock.write_bytes(kept)
    else:
        shutil.rmtree(tree, ignore_errors=True)
        _git("worktree", "prune")
        _git("worktree", "add", "--quiet", "--detach", str(tree), commit)
    with Repo() as here, Repo(str(tree)) as there, there.config.edit("local") as config:
        config["cache"]["dir"] = here.cache.local_cache_dir
    return tree


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise StageError(f"a recipe runs in a git worktree, and git {words[0]} failed: {said[-1]}")
    return done.stdout.strip()


def _get(values: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _set(values: dict[str, Any], key: str, value: Any, create: bool = False) -> None:
    *sections, last = key.split(".")
    for part in sections:
        if create:
            values.setdefault(part, {})
        inner = values.get(part)
        if not isinstance(inner, dict):
            raise SettingsError(f"--set {key}: no such parameter; `python -m rlhf.settings` lists them all")
        values = inner
    values[last] = value
