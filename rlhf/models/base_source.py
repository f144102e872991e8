"""Where a base model comes from: the Hugging Face Hub or a folder. Only safetensors, and no code from it.

`find` takes what is small and what the headers of the weights say, so that a model can be refused before its
weights are fetched; `fetch` takes the rest, once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from glob import escape
from math import prod
from pathlib import Path
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.hub_errors import first_line, one_line

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# Configs, tokenizer, vocabulary, chat template, and what tells the licence; not the subfolders of a model.
SMALL = ("*.json", "*.jinja", "*.model", "*.txt", "README.md", "LICENSE*", "LICENCE*")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")
NO_WEIGHTS = "no weights at all; `save_pretrained` of the model writes them"
CONVERT = (
    'convert them where you trust them: python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('MODEL').save_pretrained('FOLDER')\", and put the tokenizer's files beside"
)


@dataclass(frozen=True)
class Source:
    """A model that is named and looked at, and its weights perhaps not yet fetched.

    Attributes:
        name: how messages call it: the Hub id, or the folder as it was named.
        revision: commit of the Hub; None for a folder.
        folder: holds its small files, and its weights once they are fetched.
        config: what config.json says.
        weights: file of weights -> bytes.
        missing: bytes of them that are not on this machine yet.
        stored: type of numbers (BF16, F32 ...) -> how many of them the weights are.
    """

    name: str
    revision: str | None
    folder: Path
    config: dict[str, Any]
    weights: dict[str, int]
    missing: int
    stored: dict[str, int]

    @property
    def bytes(self) -> int:
        """Of all weights."""
        return sum(self.weights.values())


def find(name: str, revision: str | None, folder: Path | None) -> Source:
    """Look at a model without reading or fetching its weights.

    Args:
        name: Hub id, or the folder as it was named.
        revision: full commit of the Hub; None for a folder.
        folder: the model's folder; None for a Hub id.

    Raises:
        DataError: it cannot be reached or read, has no safetensors, or no commit is named.
    """
    if folder is not None:
        if revision:
            raise DataError(f"{name}: a folder has no revision; set base.revision to null")
        return _look(name, None, folder, {f.name: f.stat().st_size for f in folder.iterdir() if f.is_file()})
    with one_line(name, revision, "model", "base"):
        if revision is None:
            raise DataError(f"{name}: base.revision is not set; {_newest(name)}")
        from huggingface_hub import get_cached_repo_tree, snapshot_download
        from huggingface_hub.errors import CachedRepoTreeNotFoundError

        small = snapshot_download(name, revision=revision, allow_patterns=list(SMALL), ignore_patterns="*/*")
        there = {file.name: file.stat().st_size for file in Path(small).iterdir() if file.is_file()}
        try:
            tree = get_cached_repo_tree(name, revision=revision)
            files = {file.path: file.size for file in tree if "/" not in file.path}
        except CachedRepoTreeNotFoundError:  # a cache that another program filled, and no network
            files = there
        return _look(name, revision, Path(small), files)


def hub_cache() -> Path:
    """The folder in which the Hub's client keeps what it fetched (HF_HOME, HF_HUB_CACHE)."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def fetch(source: Source) -> Source:
    """The source with its weights on this machine; what is in the cache of the Hub is not fetched again.

    Raises:
        DataError: it cannot be reached, or the download broke off.
    """
    if source.revision is None or not source.missing:
        return source
    from huggingface_hub import snapshot_download

    patterns = [*SMALL, *map(escape, source.weights)]
    with one_line(source.name, source.revision, "model", "base"):
        snapshot_download(
            source.name, revision=source.revision, allow_patterns=patterns, ignore_patterns="*/*"
        )
    return replace(source, missing=0)


def _look(name: str, revision: str | None, folder: Path, files: Mapping[str, int]) -> Source:
    """The source, by the names and sizes of all its files and the content of the small ones."""
    if "config.json" not in files:
        if "adapter_config.json" in files:
            raise DataError(f"{name}: these are adapters without their model; merge them into it first")
        raise DataError(f"{name}: no config.json, so this is no model that transformers can load")
    config = _json(name, folder / "config.json")
    names = [SINGLE] if SINGLE in files else []
    if not names and INDEX in files:
        names = sorted(set(_json(name, folder / INDEX).get("weight_map", {}).values()))
    if not names:
        pickled = sorted(file for file in files if file.endswith(PICKLED))
        what = f"only {pickled[0]}, which can hold code; {CONVERT}" if pickled else NO_WEIGHTS
        raise DataError(f"{name}: no model.safetensors or {INDEX}: {what}")
    for file in names:
        if file not in files:
            raise DataError(f"{name}: {INDEX} names {file}, which is not there")
    missing = [file for file in names if not (folder / file).exists()]
    weights = {file: files[file] for file in names}
    stored = _stored(name, revision, folder, names, bool(missing))
    return Source(name, revision, folder, config, weights, sum(weights[f] for f in missing), stored)


def _json(name: str, file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: {file.name} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{name}: {file.name} holds no JSON object")
    return content


def _stored(name: str, revision: str | None, folder: Path, names: list[str], remote: bool) -> dict[str, int]:
    """Type of numbers -> how many of them there are, from the headers of the weights alone."""
    from huggingface_hub import HfApi, parse_local_safetensors_file_metadata
    from huggingface_hub.errors import SafetensorsParsingError

    def header(file: str) -> Any:
        if remote:
            return HfApi().parse_safetensors_file_metadata(name, file, revision=revision)
        return parse_local_safetensors_file_metadata(folder / file)

    count: Counter[str] = Counter()
    with ThreadPoolExecutor(8) as pool:
        try:
            for metadata in pool.map(header, names):
                for tensor in metadata.tensors.values():
                    count[tensor.dtype] += prod(tensor.shape)
        except SafetensorsParsingError as error:
            raise DataError(f"{name}: its weights are no whole safetensors: {first_line(error)}") from None
    return dict(count)


def _newest(name: str) -> str:
    """What to do about a revision that is not set."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    pages = f"{constants.ENDPOINT}/{name}/commits/main"
    try:
        return f"set it to a full commit: {HfApi().model_info(name).sha} is the newest, {pages} has all"
    except RepositoryNotFoundError:
        raise
    except (HTTPError, OSError, OfflineModeIsEnabled):
        return f"it is no folder here, and of a Hub id a full commit is wanted, as {pages} shows"
