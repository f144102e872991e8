"""The pages that runs write, on a port of their own: `python -m flows.services.pages` (started by make up).

Only `/<run>/reports/...` of the worktrees is served. The pages show what models wrote, so they share no
origin with Prefect, MLflow or the labeling app, and their content security policy runs no script of theirs
and lets them load nothing from elsewhere.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import os
import traceback
from collections.abc import Collection
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from flows.services.guarded import SIGN_IN, signed_in
from flows.services.runs_page import runs_page
from flows.workspace import RUNS
from labeling.web.origin import foreign

HEADERS = {
    # Styles and charts are in the pages themselves, and no page needs a script.
    "Content-Security-Policy": "default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Handler(SimpleHTTPRequestHandler):
    """Files under `reports/` of a run; the list of runs at `/`."""

    timeout = 60  # seconds without a byte after which a connection is closed
    runs = RUNS
    names: Collection[str] = ()
    secret: str | None = None

    def parse_request(self) -> bool:
        """Read a request, and answer it at once where it is refused, whatever its method."""
        return super().parse_request() and not self._refused()

    def _refused(self) -> bool:
        reason = foreign(self.headers.get("Host", ""), self.headers.get("Origin"), self.names)
        if reason:
            self.send_error(403, explain=f"refused: {reason}")
        elif not _is_plain(self.path):
            self.send_error(400, explain="refused: no page has such an address")
        elif not signed_in(self.headers.get("Authorization"), self.secret):
            body = b"sign in\n"
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="rlhf"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            return False
        return True

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/":
            self._index()
        else:
            super().do_GET()

    def translate_path(self, path: str) -> str:
        """The file of a URL; a path that does not exist for every file that may not be seen."""
        parts = [part for part in unquote(urlsplit(path).path).split("/") if part]
        if len(parts) > 1 and parts[1] == "reports" and parts[0] not in (".", ".."):
            with suppress(OSError, RuntimeError):  # a name that is too long, links in a circle
                wanted = self.runs.joinpath(*parts).resolve()
                if wanted.is_relative_to((self.runs / parts[0] / "reports").resolve()):
                    return str(wanted)
        return str(self.runs / "-" / "not-there")

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _index(self) -> None:
        try:
            body = runs_page(self.runs).encode()
        except Exception:  # whatever lies in a worktree, whoever asks gets an answer, and the log says why
            traceback.print_exc()
            self.send_error(500)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _is_plain(target: str) -> bool:
    """Whether a request's target is a path of printable characters, as every link of the pages is."""
    try:
        path = urlsplit(target).path
    except ValueError:  # //[
        return False
    return path.startswith("/") and target.isascii() and unquote(path).isprintable()


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.services.pages",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8700)
    parser.add_argument("--name", action="append", default=[], help="another host name of this server")
    options = parser.parse_args()
    Handler.names, Handler.secret = {name.lower() for name in options.name}, os.environ.get(SIGN_IN)
    with ThreadingHTTPServer((options.host, options.port), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
