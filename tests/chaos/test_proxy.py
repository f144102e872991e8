"""The proxy of the chaos tests does to connections what it says."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from proxy import Proxy, proxy


class Echo(socketserver.BaseRequestHandler):
    """Sends back what it gets."""

    def handle(self) -> None:
        while data := self.request.recv(1000):
            self.request.sendall(data)


@pytest.fixture
def echo() -> Iterator[Proxy]:
    """A proxy before a server that sends back what it gets."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with proxy(server.server_address, delay=0.2) as opened:  # type: ignore[arg-type]
            yield opened
        server.shutdown()


def ask(opened: Proxy) -> bytes:
    with closing(socket.create_connection(("127.0.0.1", opened.port), timeout=10)) as client:
        client.sendall(b"hello")
        return answer(client)


def answer(client: socket.socket) -> bytes:
    """What comes back; nothing where the connection is broken."""
    try:
        return client.recv(100)
    except ConnectionResetError:
        return b""


def test_modes_come_and_go_on_the_same_port(echo: Proxy) -> None:
    assert ask(echo) == b"hello"
    kept = socket.create_connection(("127.0.0.1", echo.port), timeout=10)
    kept.sendall(b"a")
    assert kept.recv(10) == b"a"
    port = echo.port
    echo.become("down")
    with pytest.raises(ConnectionRefusedError):
        ask(echo)
    with closing(kept):  # the connection that there was is broken too
        assert answer(kept) == b""
    echo.become("failing")
    with closing(socket.create_connection(("127.0.0.1", echo.port), timeout=10)) as client:
        client.sendall(b"hello")
        assert answer(client) == b""
    echo.become("slow")
    assert ask(echo) == b"hello"
    assert echo.touched == 2
    echo.become("well")
    assert (ask(echo), echo.port, echo.touched) == (b"hello", port, 2)
