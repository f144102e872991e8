"""How a command reaches Prefect: the server that the user named, that of `make up`, or a temporary one.

    python -m flows.prefect_api DESCRIPTOR    # the temporary one, on a listening socket

A temporary server keeps what it is told in the state folder, shows no pages, and ends with the process that
started it, however that one ends.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STARTUP_SECONDS = 120  # the first start makes the database
STOP_SECONDS = 5


@contextmanager
def prefect_api() -> Iterator[None]:
    """Let Prefect's client reach a server inside the block.

    Raises:
        StageError: the temporary server did not start.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_UI_URL, temporary_settings

    from flows.runs import alone
    from flows.services import running_environment
    from tasks.context import connect, state_dir

    _calm_logs()
    for name, value in running_environment().items():
        os.environ.setdefault(name, value)
    if PREFECT_API_URL.value():
        yield
    elif os.environ.get("PREFECT_API_URL"):
        with temporary_settings({PREFECT_API_URL: os.environ["PREFECT_API_URL"]}):
            yield
    else:
        home = state_dir() / "prefect"
        home.mkdir(parents=True, exist_ok=True)
        first = "" if (home / "prefect.db").exists() else "; the first one makes its database, half a minute"
        print(f"starting a temporary Prefect server{first}", flush=True)
        with alone("prefect"):  # two first runs at once would both make its database
            process, url = _start_server(home)
            with alone("mlflow"):  # and MLflow's
                connect()  # loads MLflow; the server takes longer
            _wait(process, f"{url}/health")
        # no pages: links to them would lead nowhere
        with temporary_settings({PREFECT_API_URL: url, PREFECT_UI_URL: "", PREFECT_HOME: home}):
            yield


def _start_server(home: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A server that is starting, and its URL. It is stopped when this process ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:  # whoever connects waits until it is there
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_api", str(listening.fileno())],
            env={**os.environ, "PREFECT_HOME": str(home), "PREFECT__SERVER_EPHEMERAL": "1"},
            stdin=subprocess.PIPE,  # its end tells the server that this process was killed
            pass_fds=[listening.fileno()],
            start_new_session=True,  # Ctrl-C is for the run, which then tells the server
        )
    # Not at the end of the block: Prefect's client sends its last logs when the threads of this process end,
    # which is before `atexit`, and would try again for minutes.
    atexit.register(_stop, process)
    return process, url


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    process.kill()
    process.wait()


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    """Wait until the server answers."""
    import httpx

    from tasks.context import StageError

    try:
        httpx.get(url, timeout=STARTUP_SECONDS).raise_for_status()
    except httpx.HTTPError as error:
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        raise StageError(
            f"the temporary Prefect server did not start ({error}; exit code {process.returncode}); what it "
            "said stands above. `make up` starts one that stays"
        ) from None


def _calm_logs() -> None:
    """Drop what Prefect says twice or what is of no use to a person who follows the run."""
    for name in ("prefect", "prefect.task_runs"):
        logging.getLogger(name).addFilter(
            lambda record: not record.getMessage().startswith("Task run failed with state")
        )


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    signal.raise_signal(signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)


def serve(descriptor: int) -> None:
    """Run the server on a listening socket until the parent process ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app(final=True), log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    serve(int(sys.argv[1]))
