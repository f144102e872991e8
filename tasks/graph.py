"""The graph of dvc.yaml: what each stage declares, its key, and the code that it depends on.

    python -m tasks.graph            # does dvc.yaml name the code that each stage imports?
    python -m tasks.graph --write    # write it there, a file a line

DVC hashes whole files, so a stage depends on every module of ours that it imports, directly or through
others.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rlhf.settings import load_settings
from tasks.runtime.errors import StageError, one_line_errors
from tasks.runtime.places import CODE

# What these change reaches a stage through its parameters, refuses it, or leaves its results alone: a better
# log line retrains nothing.
LEFT_OUT = (
    "rlhf/settings/",
    "tasks/graph.py",
    *(
        f"tasks/runtime/{name}.py"
        for name in (
            "declared",
            "errors",
            "faults",
            "lazily",
            "libraries",
            "past_profiles",
            "places",
            "preflight",
            "process",
            "stage",
            "tracking",
        )
    ),
)
# What cuts a step into parts, so that it fits into memory, changes what is learnt by rounding alone: a run
# that lacked memory goes on with smaller parts.
IN_PARTS = ("ppo.micro_batch_tokens",)
# Code that a stage hands to another program as a file, and so does not import.
HANDED_OVER = {"tasks.register": ("mlflow/served_policy.py",)}
_DEPS = re.compile(r"^    deps:(?: \[.*\]|(?:\n      - .*)+)$", re.MULTILINE)


@functools.cache
def stages() -> dict[str, Any]:
    """The stages of dvc.yaml; DVC owns the graph, and this only looks entries up."""
    return yaml.safe_load(Path("dvc.yaml").read_text())["stages"]


def stage_params(name: str) -> dict[str, Any]:
    """The parameters that dvc.yaml says a stage depends on, with defaults filled in."""
    values: dict[str, Any] = load_settings().model_dump(by_alias=True)
    chosen = {}
    for key in stages()[name].get("params", []):
        value: Any = values
        for part in key.split("."):
            value = value[part]
        chosen[key] = value
    return chosen


def stage_key(name: str) -> str:
    """Hash of a stage's command, parameters but `IN_PARTS`, and input files (code included): 16 hex digits.

    Raises:
        StageError: the stage is not in dvc.yaml, or an input is missing.
    """
    if name not in stages():
        raise StageError(f"dvc.yaml has no stage {name!r}; it has {', '.join(stages())}")
    params = [pair for pair in sorted(flat(stage_params(name)).items()) if pair[0] not in IN_PARTS]
    digest = hashlib.sha256(repr((stages()[name]["cmd"], params)).encode())
    for dep in stages()[name].get("deps", []):
        path = Path(dep)
        if not path.exists():
            raise StageError(f"{name}: input {dep} is missing; `dvc repro {name}` makes it")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.as_posix()}\0".encode())
                with file.open("rb") as handle:
                    digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]


def content_hash(path: Path | str) -> str:
    """Hash of a file, or of a folder's files and their names: 16 hex digits, the same on any machine."""
    root, digest = Path(path), hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]:
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]


def dvc_hash(path: str) -> str | None:
    """DVC's hash of an output, or of the output folder that holds it; None before DVC has seen it."""
    try:
        lock = yaml.safe_load(Path("dvc.lock").read_text())
    except FileNotFoundError:
        return None
    for stage in lock.get("stages", {}).values():
        for out in stage.get("outs", []):
            if path == out["path"] or path.startswith(out["path"] + "/"):
                return out["md5"]
    return None


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as dotted key -> value."""
    dotted: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            dotted |= flat(value, f"{prefix}{key}.")
        else:
            dotted[prefix + key] = value
    return dotted


def code_of_stages() -> dict[str, list[str]]:
    """The files of code that each stage depends on, sorted: all that it imports of our packages, the template
    beside each, and what it hands over.

    Raises:
        StageError: `grimp` is not installed; it comes with `.[dev]`.
    """
    try:
        import grimp
    except ImportError:
        raise StageError(
            "the import graph needs grimp; install the project with pip install -e '.[dev]'"
        ) from None
    packages = [folder.rstrip("/") for folder in CODE if Path(folder, "__init__.py").exists()]
    graph = grimp.build_graph(*packages, exclude_type_checking_imports=True, cache_dir=None)
    code = {}
    for name, stage in stages().items():
        module = stage["cmd"].split()[2]
        files: set[str] = set(HANDED_OVER.get(module, ()))
        for imported in {module, *graph.find_upstream_modules(module)}:
            path = Path(imported.replace(".", "/") + ".py")
            files |= {
                file.as_posix()
                for file in path.parent.glob(f"{path.stem}.*")
                if file.suffix in (".py", ".j2", ".jinja")
            }
        # An __init__.py holds no code and is no dependency.
        code[name] = sorted(file for file in files if not file.startswith(LEFT_OUT))
    return code


def with_code(text: str, code: Mapping[str, Iterable[str]]) -> str:
    """The text of dvc.yaml with the code of each stage first in its `deps`."""
    parts = re.split(r"^(  [\w-]+):$", text, flags=re.MULTILINE)
    for at in range(1, len(parts), 2):
        name = parts[at].strip()
        data = [dep for dep in stages()[name].get("deps", []) if not dep.startswith(CODE)]
        lines = "".join(f"\n      - {dep}" for dep in [*code[name], *data])
        parts[at + 1] = _DEPS.sub(f"    deps:{lines}", parts[at + 1], count=1)
    return "".join(part + (":" if at % 2 else "") for at, part in enumerate(parts))


def main(arguments: list[str] | None = None) -> None:
    """The command; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.graph",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="write the dependencies into dvc.yaml")
    write = parser.parse_args(arguments).write
    with one_line_errors():
        path = Path("dvc.yaml")
        before = path.read_text()
        after = with_code(before, code_of_stages())
        if write and after != before:
            path.write_text(after)
            stages.cache_clear()
            print("dvc.yaml: the code of the stages is written")
        elif after != before:
            raise StageError(
                "dvc.yaml names other code than the stages import; `python -m tasks.graph --write` mends it"
            )
        else:
            print("dvc.yaml names the code that the stages import")


if __name__ == "__main__":
    main()
