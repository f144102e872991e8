"""A server that speaks as much of the Hugging Face Hub as fetching models and data needs, from folders."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


@dataclass
class Repository:
    """A model or a data set on the server.

    Attributes:
        sizes: file -> the size that the server claims in place of the true one.
    """

    folder: Path
    commit: str
    gated: bool = False
    sizes: dict[str, int] = field(default_factory=dict)

    def size(self, file: Path) -> int:
        return self.sizes.get(file.name, file.stat().st_size)


class Hub(ThreadingHTTPServer):
    """`repositories` by id; `requests` lists (method, path, Range header) of all that was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, name: str, folder: Path, **more) -> str:
        """Serve a folder as the model `name`, or the data set `datasets/name`; returns its commit."""
        commit = hashlib.sha1(name.encode()).hexdigest()
        self.repositories[name] = Repository(folder, commit, **more)
        return commit

    def asked(self, part: str) -> list[tuple[str, str, str | None]]:
        """The requests whose path has `part` in it."""
        return [request for request in self.requests if part in request[1]]

    def handle_error(self, *_) -> None:
        pass  # a client that went away


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("Range")))
        path = path.replace("/api/datasets/", "/api/models/datasets/")
        api = re.fullmatch(r"/api/models/((?:datasets/)?[^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        name, commit = (api[1], api[3]) if api else (file[1], file[2]) if file else ("", None)
        repository = hub.repositories.get(name)
        if repository is None:
            return self.refuse(401, "RepoNotFound", "Repository not found")
        if commit not in (None, "main", repository.commit):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {commit}")
        if api and api[2] == "tree":
            return self.reply(200, json.dumps(self.tree(repository)).encode())
        if api:
            return self.reply(
                200,
                json.dumps(
                    {"id": name.removeprefix("datasets/"), "sha": repository.commit, "siblings": []}
                ).encode(),
            )
        if repository.gated and self.headers.get("Authorization") != "Bearer accepted":
            status = 403 if "Authorization" in self.headers else 401
            return self.refuse(status, "GatedRepo", "Access to this model is restricted")
        return self.file(repository, repository.folder / file[3])

    do_HEAD = do_GET

    def tree(self, repository: Repository) -> list[dict]:
        entries = []
        for file in sorted(repository.folder.rglob("*")):
            path = file.relative_to(repository.folder).as_posix()
            kind = "directory" if file.is_dir() else "file"
            entries.append({"type": kind, "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()})
            if file.is_file():
                entries[-1]["size"] = repository.size(file)
        return entries

    def file(self, repository: Repository, file: Path) -> None:
        if not file.is_file():
            return self.refuse(404, "EntryNotFound", "Entry not found", repository.commit)
        content = file.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": repository.commit,
            "X-Linked-Size": str(repository.size(file)),
            "Accept-Ranges": "bytes",
        }
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            return self.reply(200, content, headers)
        piece = content[int(part[1]) : int(part[2]) + 1 if part[2] else None]
        headers["Content-Range"] = f"bytes {part[1]}-{int(part[1]) + len(piece) - 1}/{len(content)}"
        return self.reply(206, piece, headers)

    def refuse(self, status: int, code: str, message: str, commit: str = "") -> None:
        more = {"X-Repo-Commit": commit} if commit else {}
        self.reply(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message, **more})

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that the client in this process asks, with a cache of the test's own."""
    from huggingface_hub import constants

    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
        yield hub
        hub.shutdown()


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    """The variables with which another process asks `hub` and keeps what it fetches in `home`."""
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more}
