"""A folder with a model that a user brings: which of its files are read, and the hash of their content."""

from __future__ import annotations

import functools
import hashlib
from fnmatch import fnmatch
from pathlib import Path

from rlhf.data.errors import DataError

WEIGHTS = "*.safetensors"
ADAPTERS = "adapter_config.json"  # makes a folder one of adapters
# Beside the weights: configs, the index of the weights, tokenizer, vocabulary and chat template.
SMALL = ("*.json", "*.jinja", "*.model", "*.txt")
ABOUT = ("README.md", "LICENSE*", "LICENCE*")  # read for the licence; nothing is computed from them


def model_files(path: Path | str) -> list[Path]:
    """The files of a model folder that decide what the model is, sorted by name; nothing in subfolders.

    Raises:
        DataError: no such folder, or no config.json in it.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{path}: no such folder; base.path is a model folder, or a Hub id with base.revision"
        )
    if not (folder / "config.json").is_file():
        if (folder / ADAPTERS).is_file():
            raise DataError(f"{path}: adapters without their model; merge them into it first")
        raise DataError(f"{path}: no config.json here, so this is no model folder of transformers")
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and any(fnmatch(file.name, pattern) for pattern in (WEIGHTS, *SMALL))
    )


def folder_hash(path: Path | str) -> str:
    """SHA-256 (hex) of a model folder: of the names and bytes of `model_files`.

    Raises:
        DataError: see `model_files`.
    """
    digest = hashlib.sha256()
    for file in model_files(path):
        digest.update(f"{file.name}\0{file_hash(file)}\n".encode())
    return digest.hexdigest()


def weights_hash(folder: Path) -> str:
    """SHA-256 (hex) of the weights in a folder: of the names and bytes of their files."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob(WEIGHTS)):
        digest.update(f"{file.name}\0{file_hash(file)}\n".encode())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file; read once in a process while size and time of change stay the same."""
    about = path.stat()
    return _file_hash(path.resolve(), about.st_size, about.st_mtime_ns)


@functools.cache
def _file_hash(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
