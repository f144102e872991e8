"""The pages' server answers every request, and shows nothing but what lies under a run's `reports`."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.services import pages

SECRET = "nobody may see this"
Ask = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """The status of a request and all that came, for a request line as it is."""
    folder = tmp_path_factory.mktemp("pages")
    reports = folder / "runs/best/reports"
    reports.mkdir(parents=True)
    (reports / "report.html").write_text("the report")
    for secret in (folder / "secret.txt", folder / "runs/secret.txt", folder / "runs/best/params.yaml"):
        secret.write_text(SECRET)
    (folder / "reports").mkdir()
    (folder / "reports/secret.txt").write_text(SECRET)
    (reports / "out.html").symlink_to(folder / "secret.txt")
    (reports / "folder").symlink_to(folder)
    (reports / "circle").symlink_to(reports / "circle")

    class Handler(pages.Handler):
        runs = folder / "runs"

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

        def request(line: bytes, host: str = "127.0.0.1") -> tuple[int, str]:
            with socket.create_connection(server.server_address[:2], timeout=30) as client:
                client.sendall(line + b"\r\nHost: " + host.encode() + b"\r\nConnection: close\r\n\r\n")
                answer = client.makefile("rb").read().decode("latin-1")
            assert answer, f"the connection was dropped: {line[:80]!r}"
            return int(answer.split()[1]), answer

        yield request
        server.shutdown()


def test_a_report_is_served_by_file_and_the_list_at_the_root(ask: Ask) -> None:
    assert ask(b"GET /best/reports/report.html HTTP/1.1")[0] == 200
    assert ask(b"GET /best/reports/report.html?x=1#y HTTP/1.1")[0] == 200
    assert ask(b"HEAD /best/reports/report.html HTTP/1.1")[0] == 200
    assert ask(b"GET / HTTP/1.1")[0] == 200


@pytest.mark.parametrize(
    "target",
    [
        b"/%00",
        b"/best/reports/%00.html",
        b"/best/reports/report.html%00",
        b"/best/reports/\x01",
        b"/best/reports/%0d%0aX: y",
        b"/best/reports/\xff\xfe",
        b"/best/reports/%ff%fe",
        b"//[",
        b"/[",
        b"http://[/",
        b"http://[::1/best/reports/report.html",
        b"*",
        b"x",
        b"?",
        b"/%",
        b"/" + b"a" * 300 + b"/reports/x",
        b"/best/reports/" + b"b" * 5000,
        b"/best/reports/" + b"c/" * 3000,
        b"/best/reports/circle",
        b"/best/reports/circle/x",
        b"/" * 2000,
    ],
    ids=lambda target: repr(target[:24]),
)
def test_an_odd_path_is_answered(target: bytes, ask: Ask) -> None:
    status, _ = ask(b"GET " + target + b" HTTP/1.1")
    assert 400 <= status < 500 or target.strip(b"/") == b""  # many slashes are one


@pytest.mark.parametrize(
    "path",
    [
        "/best/params.yaml",
        "/secret.txt",
        "/best/reports/../params.yaml",
        "/best/reports/%2e%2e/params.yaml",
        "/best/reports/%2e%2e%2f%2e%2e%2fsecret.txt",
        "/best/reports//../../../secret.txt",
        "/../reports/secret.txt",
        "/%2e%2e/reports/secret.txt",
        "/./reports/secret.txt",
        "/best/reports/out.html",
        "/best/reports/folder/secret.txt",
        "/best/reports/..\\params.yaml",
        "/best/reports/",
        "/best/reports",
    ],
)
def test_nothing_else_is_served(path: str, ask: Ask) -> None:
    status, answer = ask(f"GET {path} HTTP/1.1".encode())
    assert status in (301, 400, 404)
    assert SECRET not in answer
    assert "secret.txt" not in answer.split("\r\n\r\n", 1)[1]


def test_what_is_no_request_is_answered(ask: Ask) -> None:
    assert ask(b"GET / x y HTTP/1.1")[0] == 400
    assert ask(b"POST / HTTP/1.1")[0] == 501
    assert ask(b"GET / HTTP/1.1", host="evil.example")[0] == 403


def test_a_list_that_cannot_be_made_is_an_error_of_the_server(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: Path) -> str:
        raise TypeError("what a run wrote is no list")

    monkeypatch.setattr(pages, "runs_page", fails)
    status, answer = ask(b"GET / HTTP/1.1")
    assert status == 500
    assert "no list" not in answer
    assert "no list" in capsys.readouterr().err
