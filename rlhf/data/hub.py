"""A data set on the Hugging Face Hub, at a commit: its data files, fetched once, and no code from it."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from glob import escape, has_magic
from pathlib import Path

from rlhf.data.errors import DataError
from rlhf.data.formats.compressed import COMPRESSIONS
from rlhf.data.formats.records import SUFFIXES
from rlhf.data.hub_errors import one_line

_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/(.+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DATA = [f"*{kind}{packed}" for kind in SUFFIXES if kind != ".txt" for packed in ("", *COMPRESSIONS)]


def local_path(path: str, revision: str | None) -> str:
    """Where the data that a user names lie on this machine; those of a data set on the Hub are fetched.

    Args:
        path: a file, folder or pattern here, or `owner/name` on the Hub, perhaps with the files that are
            meant: `owner/name/data/train_prefs-*`.
        revision: full commit of the Hub; None for what lies here.

    Raises:
        DataError: it is neither, or cannot be reached, or holds no data files.
    """
    here = Path(path).expanduser().exists()
    named = _ID.fullmatch(path)
    if revision is None:
        if not here and not has_magic(path) and named:
            raise DataError(
                f"{path}: no such file or folder; if it is a data set on the Hub, set "
                "ingest.revision to the full commit that is meant"
            )
        return path
    if here or not named:
        what = "it is here, and what is here" if here else "it is no id of the Hub, and a path"
        raise DataError(f"{path}: {what} has no revision; set ingest.revision to null")
    if not _COMMIT.fullmatch(revision):
        raise DataError(
            f"{path}: ingest.revision is {revision!r}; write the full commit, 40 digits, because a name "
            "such as main moves"
        )
    return _fetched(named[1], revision, named[2])


def _fetched(name: str, revision: str, wanted: str | None) -> str:
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    patterns = [wanted, f"{wanted}/*"] if wanted else _DATA
    with one_line(name, revision, "data set", "ingest"):
        folder = Path(
            str(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns))
        )
        try:
            tree = [file.path for file in get_cached_repo_tree(name, repo_type="dataset", revision=revision)]
        except CachedRepoTreeNotFoundError:  # a cache that another program filled, and no network
            tree = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    data = [file for file in tree if any(fnmatch(file.lower(), pattern) for pattern in _DATA)]
    meant = [file for file in data if any(fnmatch(file, pattern) for pattern in patterns)]
    if not meant:
        scripts = [file for file in tree if file.endswith(".py")]
        why = (
            f"only {scripts[0]}, a script that would load it, and no code of a data set is run"
            if scripts and not data
            else f"none of its {len(data)} data files fits {wanted!r}"
            if data
            else "no file of a type that is read"
        )
        raise DataError(f"{name}: {why}; convert it to Parquet or JSON lines where you trust it")
    return f"{escape(str(folder))}/{wanted}" if wanted else str(folder)
