"""Starting the app: one process, with threads for the requests."""

from __future__ import annotations

import gc
import socket
from collections.abc import Collection

import uvicorn

from labeling.people import SESSION_IDLE
from labeling.store import Store
from labeling.web.app import create_app
from labeling.web.asking import Answer
from labeling.web.origin import SameOrigin
from rlhf.data.errors import DataError


def serve(
    store: Store,
    host: str = "127.0.0.1",
    port: int = 8600,
    answer: Answer | None = None,
    idle: float = SESSION_IDLE,
    proxy: bool = False,
    names: Collection[str] = (),
) -> None:
    """Serve until interrupted; prints the URL once the port is open.

    Args:
        store: where everything is kept.
        host: address to listen on.
        port: 0 takes a free one.
        answer: the served model.
        idle: seconds without a request after which a session ends.
        proxy: whether to trust X-Forwarded-For and -Proto.
        names: host names under which the app is reached, besides those of the loopback interface.

    Raises:
        DataError: the address is taken or not of this machine.
    """
    listener = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    print(f"labeling app: http://{shown}:{listener.getsockname()[1]}  (stop with Ctrl-C)", flush=True)
    config = uvicorn.Config(
        SameOrigin(create_app(store, answer, idle), names),
        access_log=False,
        log_level="warning",
        proxy_headers=proxy,
        server_header=False,
        timeout_keep_alive=75,  # a judgment takes people longer than uvicorn's 5 s
        timeout_graceful_shutdown=5,
    )
    try:
        run_until_interrupted(config, listener)
    finally:
        store.close()


def run_until_interrupted(config: uvicorn.Config, listener: socket.socket) -> None:
    """Serve on an open socket until Ctrl-C, and close it."""
    gc.freeze()  # the collector need not visit again and again what lives as long as the process
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        listener.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        DataError: the address is taken or not of this machine.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise DataError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None
    listener.listen(1024)
    return listener
