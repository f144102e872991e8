"""How a command reaches Prefect: the server that the user named, that of `make up`, or a temporary one.

    python -m flows.services.prefect DESCRIPTOR    # the temporary one, on a listening socket

A temporary server keeps its database in the state folder, shows no pages, and ends with the process that
started it, however that one ends.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import atexit
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.data.private import OTHERS, private_file, private_folder
from tasks.runtime.process import defaults

STARTUP_SECONDS = 120  # the first start makes the database
STOP_SECONDS = 5


@contextmanager
def prefect_api() -> Iterator[None]:
    """Let Prefect's client reach a server inside the block.

    Raises:
        StageError: the temporary server did not start, or that of the user does not answer, or one of them
            does not answer any more.
    """
    from flows.services.processes import logs_folder, running_environment
    from tasks.runtime.errors import StageError
    from tasks.runtime.faults import refuse_bad_sqlite
    from tasks.runtime.locks import alone
    from tasks.runtime.places import state_folder
    from tasks.runtime.tracking import connect

    for name, value in running_environment().items():
        os.environ.setdefault(name, value)
    home = state_folder() / "prefect"
    with ExitStack() as starting:
        server = None
        if not _named():
            starting.enter_context(alone("prefect"))  # two first runs at once would both make its database
            first = not (home / "prefect.db").exists()
            refuse_bad_sqlite(home / "prefect.db", "Prefect's database")
            server = _start_server(home)
        # While the server starts, what a run needs is loaded: Prefect's client, DVC and MLflow.
        with _no_collection():
            import dvc.repo  # noqa: F401
            from prefect.settings import (
                PREFECT_API_URL,
                PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
                PREFECT_HOME,
                PREFECT_UI_URL,
                temporary_settings,
            )

            import flows.pipeline  # noqa: F401

            if url := _named():  # known for sure now
                if server:
                    _stop(server.process)
                _check(url)
            with alone("mlflow"):  # two first runs at once would both make its database
                connect()
        _calm_logs()
        settings: dict[Any, Any] = {PREFECT_API_URL: url}
        if server and not url:
            first_time = "; the first one makes its database, half a minute" if first else ""
            print(f"starting a temporary Prefect server{first_time}", flush=True)
            _wait(server)
            settings = {
                PREFECT_API_URL: server.url,
                PREFECT_HOME: home,
                PREFECT_UI_URL: "",  # no pages: links to them would lead nowhere
                # Nobody listens to heartbeats here, and a run would wait up to a second for their thread.
                PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
            }
    import httpx

    with temporary_settings(settings):
        try:
            yield
        except httpx.HTTPError as error:
            log = _log(home) if server and not url else logs_folder() / "prefect.log"
            raise StageError(
                f"Prefect's server at {settings[PREFECT_API_URL]} does not answer any more ({error}); its "
                f"log: {log}. Run again: finished stages are kept, trainings go on from their last checkpoint"
            ) from None


def _named() -> str | None:
    """The server that the environment names, or a profile, which only Prefect can read."""
    if "prefect" in sys.modules:
        from prefect.settings import PREFECT_API_URL

        return PREFECT_API_URL.value() or os.environ.get("PREFECT_API_URL")
    return os.environ.get("PREFECT_API_URL")


@dataclass(frozen=True)
class _Server:
    """A temporary server's process, its URL, the file that takes what it prints, and from where on."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    began: int


def _log(home: Path) -> Path:
    """The log of the temporary servers, which print nothing but errors."""
    return home / "temporary-server.log"


def _start_server(home: Path) -> _Server:
    """A server that is starting. It is stopped when this process ends."""
    private_folder(home)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,  # whoever connects waits until it is there
        private_file(_log(home)).open("ab") as log,
    ):
        url, began = f"http://127.0.0.1:{listening.getsockname()[1]}/api", log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.services.prefect", str(listening.fileno())],
            env={**os.environ, **defaults(), "PREFECT_HOME": str(home), "PREFECT__SERVER_EPHEMERAL": "1"},
            stdin=subprocess.PIPE,  # its end tells the server that this process was killed
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[listening.fileno()],
            umask=OTHERS,
            start_new_session=True,  # Ctrl-C is for the run, which then tells the server
        )
    # Not at the end of the block: Prefect's client sends its last logs when the threads of this process end,
    # which is before `atexit`, and would try again for minutes.
    atexit.register(_stop, process)
    return _Server(process, url, _log(home), began)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    process.kill()
    process.wait()


def _wait(server: _Server) -> None:
    """Wait until the server answers."""
    import httpx

    from flows.services.processes import why_it_ended
    from tasks.runtime.errors import StageError

    try:
        httpx.get(f"{server.url}/health", timeout=STARTUP_SECONDS).raise_for_status()
    except httpx.HTTPError as error:
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(STOP_SECONDS)
        raise StageError(
            f"the temporary Prefect server did not start (exit code {server.process.returncode}; {error}): "
            f"{why_it_ended(server.log, server.began)}"
        ) from None


def _check(url: str) -> None:
    """Ask the server that the user named whether it is there."""
    import httpx

    from tasks.runtime.errors import StageError

    try:
        httpx.get(f"{url}/health", timeout=STARTUP_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise StageError(
            f"no Prefect server answers at {url} ({error}); start it, or name none (PREFECT_API_URL, "
            "`prefect config view`) for a temporary one"
        ) from None


def _calm_logs() -> None:
    """Drop what Prefect says twice: a failed stage is named by the flow as well."""
    for name in ("prefect", "prefect.task_runs"):
        logging.getLogger(name).addFilter(
            lambda record: not record.getMessage().startswith("Task run failed with state")
        )


@contextmanager
def _no_collection() -> Iterator[None]:
    """Load modules without looking for garbage among them, which takes a quarter of the time."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    signal.raise_signal(signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)


def serve(descriptor: int) -> None:
    """Run the server on a listening socket until the parent process ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with _no_collection():
        import uvicorn
        from prefect.server.api.server import create_app

        from labeling.web.origin import SameOrigin

    app = SameOrigin(create_app(final=True))  # a page in the user's browser can reach this port as well
    config = uvicorn.Config(app, log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    serve(int(sys.argv[1]))
