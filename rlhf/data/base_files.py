"""What a pretrained base names on this machine, a folder or a template's file, and its hash."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from rlhf.data.errors import DataError
from rlhf.data.model_folder import file_hash, folder_hash
from rlhf.settings import Pretrained

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def local_folder(base: Pretrained) -> Path | None:
    """The folder that `base.path` names; None where it names a model on the Hub.

    Raises:
        DataError: it is neither a folder nor an id.
    """
    folder = Path(base.path).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file() or not _HUB_ID.fullmatch(base.path):
        raise DataError(
            f"base.path: no such folder: {base.path}; name a folder with config.json and safetensors, or an "
            "id on the Hugging Face Hub such as Qwen/Qwen3-0.6B"
        )
    return None


def template_file(base: Pretrained) -> Path | None:
    """The file that `base.template` names; None where it names a kind.

    Raises:
        DataError: no such file.
    """
    if base.template in ("auto", "plain", "chat"):
        return None
    file = Path(base.template).expanduser()
    if not file.is_file():
        raise DataError(f"base.template: no such file: {base.template}; or write auto, plain or chat")
    return file


def local_hash(base: Pretrained) -> str | None:
    """SHA-256 (hex) of what `base` names on this machine, folder and template; None where that is nothing.

    Raises:
        DataError: a folder or a file that is not there, or a folder without a model.
    """
    folder, template = local_folder(base), template_file(base)
    hashes = [folder_hash(folder)] if folder else []
    hashes += [file_hash(template)] if template else []
    if len(hashes) < 2:
        return hashes[0] if hashes else None
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def refuse_other_content(base: Pretrained) -> None:
    """Refuse a folder or a template's file whose content is not that of `base.sha256`.

    Raises:
        DataError: it is not, or is not there.
    """
    if base.sha256 and (now := local_hash(base)) != base.sha256:
        raise DataError(
            f"base.path: the content of {base.path} is not what base.sha256 says ({base.sha256[:12]}, now "
            f"{(now or 'nothing')[:12]}); bring that content back, or set base.sha256 to null to take "
            "what is there now"
        )
