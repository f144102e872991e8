"""The services' processes: each is started with a record by which later commands find and stop it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.machine import is_alive, start_of
from flows.services.settings import CONFIG, Config, load_config, sign_in_environment
from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json
from rlhf.data.private import OTHERS, private_file
from tasks.runtime.faults import full_disk, sqlite_fault
from tasks.runtime.places import state_dir, state_folder
from tasks.runtime.process import defaults

START_SECONDS = 120.0  # the first start makes the databases
LAST_LINES = 3  # of a log, in the message on a server that ended
_TAKEN = re.compile(r"address (?:is )?already in use", re.IGNORECASE)
_TELLING = re.compile(r"^(?:[\w.]*(?:Error|Exception|Refused)\b|error:)|\b(?:ERROR|CRITICAL)\b")
STOP_SECONDS = 20.0  # then a service is killed; a worker ends its runs first


@dataclass(frozen=True)
class Service:
    """How a service is started and when it is well.

    Attributes:
        name: its name in services.yaml.
        command: what runs it.
        env: added to the environment of its process.
        healthy: whether it answers.
    """

    name: str
    command: list[str]
    env: dict[str, str]
    healthy: Callable[[], bool]


def running_environment() -> dict[str, str]:
    """The `environment` of the services that run on this machine; empty where none does."""
    names = {"prefect": "PREFECT_API_URL", "mlflow": "MLFLOW_TRACKING_URI", "pages": "RLHF_PAGES"}
    records = {name: record_of(name) for name in names if is_running(name)}
    # The password is in no file, so the settings are read again with the environment of whoever asks.
    secret = any(record.get("sign_in") for record in records.values())
    return (sign_in_environment(load_config()) if secret else {}) | {
        names[name]: record["url"] + "/api" * (name == "prefect")
        for name, record in records.items()
        if record.get("url")
    }


def start(config: Config, service: Service) -> None:
    """Start a service and write its record, unless it runs; what it prints goes to its log."""
    if is_running(service.name):
        return
    log = private_file(state_folder("logs") / f"{service.name}.log")
    with log.open("ab") as handle:
        began = handle.tell()
        process = subprocess.Popen(
            service.command,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            env={**base_environment(), **service.env},
            start_new_session=True,
            # The worker's runs write worktrees, which have the modes of any checkout.
            umask=-1 if service.name == "worker" else OTHERS,
        )
    url = config.url(service.name) if service.name != "worker" else None
    state_folder("services")
    write_json(
        record_path(service.name),
        {
            "pid": process.pid,
            "started": start_of(psutil.Process(process.pid)),
            "url": url,
            "sign_in": bool(config.sign_in),
            "log": str(log),
            "log_began": began,
        },
    )
    print(f"starting {service.name}", flush=True)


def wait_until_well(service: Service) -> None:
    """Wait until a service is well.

    Raises:
        DataError: it ended, or is not well after `START_SECONDS`; with what its log says.
    """
    end = time.monotonic() + START_SECONDS
    while not service.healthy():
        ended = not is_running(service.name)
        if ended or time.monotonic() > end:
            record = record_of(service.name)
            why = why_it_ended(Path(record["log"]), record.get("log_began", 0))
            how = "ended at once" if ended else f"does not answer after {START_SECONDS:.0f} s"
            raise DataError(f"{service.name} {how}: {why}")
        time.sleep(0.3)


def stop(process: psutil.Process) -> None:
    """End a process and what it started: by SIGTERM, and by SIGKILL what has not ended in `STOP_SECONDS`."""
    with suppress(psutil.Error):
        family = [process, *process.children(recursive=True)]
        process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=STOP_SECONDS)
        for stubborn in left:
            with suppress(psutil.Error):
                stubborn.kill()
        psutil.wait_procs(left, timeout=5)


def refuse_taken_port(config: Config, name: str) -> None:
    """Refuse a port that another program has: the service would fail, or that program would answer for it.

    Raises:
        DataError: the port is taken.
    """
    host, port = config.host, getattr(config, name).port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DataError(
                f"{name}: cannot listen on {host}:{port}: {error.strerror}; choose another port in {CONFIG}"
            ) from None


def base_environment() -> dict[str, str]:
    """The environment of every service: `python` is this one, and nothing phones home."""
    state = state_dir()
    return {
        **os.environ,
        **defaults(),
        "RLHF_STATE": str(state),
        "PREFECT_HOME": str(state_folder("prefect")),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONUNBUFFERED": "1",
    }


def logs_folder() -> Path:
    """Where the services' logs are."""
    return state_dir() / "logs"


def record_path(name: str) -> Path:
    """The file with a service's record: process number, time of its start, address, log."""
    return state_dir() / "services" / f"{name}.json"


def record_of(name: str) -> dict[str, Any]:
    """The record of a service; empty where `up` did not start it."""
    try:
        return read_json(record_path(name))
    except (DataError, ValueError):
        return {}


def is_running(name: str) -> bool:
    """Whether the process of a service's record is alive."""
    record = record_of(name)
    return bool(record) and is_alive(record["pid"], record["started"])


def why_it_ended(log: Path, began: int = 0) -> str:
    """Why a server ended, as far as its log says: the port, the database or the disk, else its last lines.

    Args:
        log: the file that takes what the server prints.
        began: the size of the file when this server was started; what is before it is of another.
    """
    try:
        with log.open("rb") as handle:
            handle.seek(began)
            lines = [line.strip() for line in handle.read().decode(errors="replace").splitlines()]
    except OSError:
        lines = []
    lines = [line for line in lines if line]
    whole = f"its log: {log}"
    if not lines:
        return f"it said nothing; {whole}"
    said = "\n".join(lines)
    if fault := sqlite_fault(said, str(state_dir()), "its database") or full_disk(said, state_dir()):
        return f"{fault}; {whole}"
    if _TAKEN.search(said):
        return f"its port is taken; choose another one in {CONFIG}; {whole}"
    telling = [line for line in lines if _TELLING.search(line)][-1:]
    last = [line for line in lines[-LAST_LINES:] if line not in telling]
    return f"{' | '.join(telling + last)}; {whole}"
