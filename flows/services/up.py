"""The services on this machine: Prefect, MLflow, a worker, the labeling app, and the pages of the runs.

    python -m flows.services up        start what is not running, and print the addresses   (make up)
    python -m flows.services down      stop exactly what `up` started                       (make down)
    python -m flows.services status    what runs
    python -m flows.services serve mlflow    one of them alone, in this terminal              (make mlflow)

Ports and stores are in services.yaml; state, logs and process numbers are under .state/.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import urlopen

import psutil

from flows.machine import is_alive
from flows.mlflow_views import mlflow_page, view_url, write_views
from flows.services.deployments import deploy
from flows.services.guarded import SIGN_IN, authorization
from flows.services.settings import (
    CONFIG,
    EVERY_ADDRESS,
    Config,
    environment,
    load_config,
    sign_in_environment,
)
from labeling.web.origin import is_loopback
from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json
from tasks.runtime.errors import one_line_errors
from tasks.runtime.locks import alone
from tasks.runtime.places import state_dir
from tasks.runtime.process import defaults
from tasks.runtime.tracking import connect

START_SECONDS = 120.0  # the first start makes the databases
STOP_SECONDS = 20.0  # then a service is killed; a worker ends its runs first
WORKER = "worker-of-this-machine"
ALONE = ("prefect", "mlflow", "label", "pages")  # services that are of use without the others


@dataclass(frozen=True)
class Service:
    """How one service is started and when it is well.

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
    records = {name: _record(name) for name in names if _runs(name)}
    # the password is in no file, so the settings are read again, from the environment of whoever asks
    secret = any(record.get("sign_in") for record in records.values())
    return (sign_in_environment(load_config()) if secret else {}) | {
        names[name]: record["url"] + "/api" * (name == "prefect")
        for name, record in records.items()
        if record.get("url")
    }


def services(config: Config) -> list[Service]:
    """Every service, in the order of starting."""
    python, state = sys.executable, state_dir()
    host, api = config.host, environment(config)
    prefect_db = config.prefect.database
    # in the environment: command lines can be read by everybody on this machine
    secret = {SIGN_IN: config.sign_in} if config.sign_in else {}
    seen_as = config.names[0] if config.names else socket.gethostname() if host in EVERY_ADDRESS else host
    seen_as = "127.0.0.1" if is_loopback(host) else seen_as
    prefect_env = {"PREFECT_UI_API_URL": f"http://{seen_as}:{config.prefect.port}/api", **secret}
    if prefect_db:
        prefect_env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = _driver(prefect_db, "asyncpg")
    mlflow_db = _driver(config.mlflow.database or f"sqlite:///{state / 'mlflow.db'}", "psycopg")
    artifacts = config.mlflow.artifacts or (state / "mlartifacts").as_uri()
    labels = {"LABELING_DB": config.label.database} if config.label.database else {}
    names = [word for name in config.host_names() for word in ("--name", name)]

    def served(module: str, service: str, *words: str) -> list[str]:
        port = str(getattr(config, service).port)
        return [python, "-m", module, *words, "--host", host, "--port", port, *names]

    worker = ["--pool", config.worker.pool, "--type", "process", "--name", WORKER]
    worker += ["--limit", str(config.worker.runs)]
    return [
        Service(
            "prefect",
            served("flows.services.guarded", "prefect", "prefect"),
            prefect_env,
            lambda: _answers(f"{config.url('prefect')}/api/health"),
        ),
        Service(
            "mlflow",
            served("flows.services.guarded", "mlflow", "mlflow"),
            {
                **secret,
                "MLFLOW_BACKEND_STORE_URI": mlflow_db,
                "MLFLOW_DEFAULT_ARTIFACT_ROOT": artifacts,
                # the jobs score traces of language models; their processes cost half a minute at the start
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
            lambda: _answers(f"{config.url('mlflow')}/health"),
        ),
        Service(
            "label",
            served("flows.label", "label"),
            {**api, **labels},
            lambda: _answers(config.url("label")),
        ),
        Service(
            "pages",
            served("flows.services.pages", "pages"),
            secret,
            lambda: _answers(config.url("pages")),
        ),
        Service(
            "worker",
            [python, "-m", "prefect", "worker", "start", *worker],
            {**api, **labels, "PREFECT_WORKER_QUERY_SECONDS": "2"},
            lambda: _working(config),
        ),
    ]


def up(config: Config) -> None:
    """Start what is not running, wait until all is well, and deploy the flows.

    Raises:
        DataError: a port is taken, or a service does not become well; its log says why.
    """
    all_services = services(config)
    for service in all_services:
        if not _runs(service.name) and hasattr(getattr(config, service.name), "port"):
            _refuse_taken(config, service.name)
    if not (config.mlflow.database or config.mlflow.artifacts):
        connect_locally()
    _first_operator(config)
    before = [service for service in all_services if service.name != "worker"]
    for service in before:
        _start(config, service)
    for service in before:
        _wait(service)
    _start(config, all_services[-1])
    _wait(all_services[-1])
    deploy(config, {**_base_env(), **environment(config)}, _record_path("deployed"))


def serve(config: Config, name: str) -> NoReturn:
    """Become one service, on the port and with the store that `up` would give it.

    Raises:
        DataError: it runs already, or its port is taken.
    """
    if _runs(name):
        raise DataError(f"{name} runs already: {_record(name)['url']}; make down stops it")
    _refuse_taken(config, name)
    service = next(service for service in services(config) if service.name == name)
    env, address = {**_base_env(), **service.env}, config.url(name)
    if name == "mlflow" and not (config.mlflow.database or config.mlflow.artifacts):
        connect_locally()
        write_views()
        address = view_url(address)
    if name == "label":
        # it asks the registry for @champion: at MLflow's server, or without one in its database
        for variable in environment(config):
            env.pop(variable)
        if config.mlflow.database:
            env["MLFLOW_TRACKING_URI"] = _driver(config.mlflow.database, "psycopg")
        env |= running_environment()
    print(f"{name}: {address}  (Ctrl-C stops it)", flush=True)
    os.execve(service.command[0], service.command, env)


def down() -> list[str]:
    """Stop what `up` started, the worker first, so that its runs can end; returns what was stopped."""
    stopped = []
    for name in ("worker", "label", "pages", "mlflow", "prefect"):
        if _runs(name):
            _stop(psutil.Process(_record(name)["pid"]))
            stopped.append(name)
        _record_path(name).unlink(missing_ok=True)
    return stopped


def page(config: Config) -> str:
    """The addresses, and what is where."""
    rows = {
        "Prefect": f"{config.url('prefect')}/deployments  start, watch and cancel runs",
        "MLflow": f"{mlflow_page(config.url('mlflow'))}  runs compared, curves, the registry",
        "labeling": f"{config.url('label')}  compare outputs; /ask talks to @champion",
        "reports": f"{config.url('pages')}  reports and Data Docs of the runs",
        "worker": f"takes runs of the pool {config.worker.pool!r}, {config.worker.runs} at once",
        "logs": f"{_logs()}/*.log",
        "stop": "make down",
    }
    return "\n".join(f"{name:<9} {text}" for name, text in rows.items())


def connect_locally() -> None:
    """Make the local tracking store, with artifacts at a place that works with and without the server."""
    given = os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        connect()
    finally:
        if given:
            os.environ["MLFLOW_TRACKING_URI"] = given


def _start(config: Config, service: Service) -> None:
    if _runs(service.name):
        return
    _logs().mkdir(parents=True, exist_ok=True)
    log = _logs() / f"{service.name}.log"
    with log.open("ab") as handle:
        process = subprocess.Popen(
            service.command,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            env={**_base_env(), **service.env},
            start_new_session=True,
        )
    url = config.url(service.name) if service.name != "worker" else None
    write_json(
        _record_path(service.name),
        {
            "pid": process.pid,
            "started": psutil.Process(process.pid).create_time(),
            "url": url,
            "sign_in": bool(config.sign_in),
            "log": str(log),
        },
    )
    print(f"starting {service.name}", flush=True)


def _wait(service: Service) -> None:
    """Wait until a service is well."""
    end = time.monotonic() + START_SECONDS
    while not service.healthy():
        if not _runs(service.name):
            raise DataError(f"{service.name} ended at once: {_last_line(service.name)}")
        if time.monotonic() > end:
            log = _record(service.name)["log"]
            raise DataError(f"{service.name} does not answer after {START_SECONDS:.0f} s; see {log}")
        time.sleep(0.3)


def _stop(process: psutil.Process) -> None:
    """End a process and what it started: SIGTERM first, as far as it goes."""
    with suppress(psutil.Error):
        family = [process, *process.children(recursive=True)]
        process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=STOP_SECONDS)
        for one in left:
            with suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(left, timeout=5)


def _refuse_taken(config: Config, name: str) -> None:
    """A port that another program has would make the service fail, or answer in its place."""
    host, port = config.host, getattr(config, name).port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DataError(
                f"{name}: cannot listen on {host}:{port}: {error.strerror}; choose another port in {CONFIG}"
            ) from None


def _first_operator(config: Config) -> None:
    """Make the labeling app's first operator here: the password is shown, and is in no log."""
    from labeling.__main__ import first_operator, print_login
    from labeling.address import store_address
    from labeling.store import Store

    store = Store(config.label.database or store_address(state_dir()))
    print_login(first_operator(store), "operator")
    store.close()


def _working(config: Config) -> bool:
    """Whether the worker has reported to the server since it was started."""
    import json
    from datetime import UTC, datetime
    from urllib.request import Request

    pool = quote(config.worker.pool)
    request = Request(
        f"{config.url('prefect')}/api/work_pools/{pool}/workers/filter",
        data=b"{}",
        headers={"Content-Type": "application/json", **authorization(config.sign_in)},
    )
    with suppress(OSError, ValueError), urlopen(request, timeout=5) as answer:
        since = datetime.fromtimestamp(_record("worker").get("started", 0.0), UTC)
        for worker in json.load(answer):
            if worker["name"] == WORKER and datetime.fromisoformat(worker["last_heartbeat_time"]) > since:
                return True
    return False


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return answer.status < 400
    except HTTPError as error:
        return error.code == 401  # it asks for the password
    except (URLError, OSError):
        return False


def _driver(url: str, driver: str) -> str:
    """A PostgreSQL URL with the driver that is installed."""
    scheme, sign, rest = url.partition("://")
    return f"postgresql+{driver}://{rest}" if sign and scheme in ("postgres", "postgresql") else url


def _base_env() -> dict[str, str]:
    """The environment of every service: `python` is this one, and nothing phones home."""
    state = state_dir()
    return {
        **os.environ,
        **defaults(),
        "RLHF_STATE": str(state),
        "PREFECT_HOME": str(state / "prefect"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONUNBUFFERED": "1",
    }


def _logs() -> Path:
    return state_dir() / "logs"


def _record_path(name: str) -> Path:
    return state_dir() / "services" / f"{name}.json"


def _record(name: str) -> dict[str, Any]:
    try:
        return read_json(_record_path(name))
    except (DataError, ValueError):
        return {}


def _runs(name: str) -> bool:
    record = _record(name)
    return bool(record) and is_alive(record["pid"], record["started"])


def _last_line(name: str) -> str:
    with suppress(OSError, KeyError):
        lines = Path(_record(name)["log"]).read_text(errors="replace").splitlines()
        return next(line for line in reversed(lines) if line.strip())
    return "its log is empty"


def _waiting() -> None:
    print("another up or down is at work; waiting for it", flush=True)


def main(words: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.services",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "verb", choices=("up", "down", "status", "env", "serve"), help="env: shell lines to use them"
    )
    parser.add_argument("name", nargs="?", choices=ALONE, help="of serve: the service")
    parser.add_argument("--config", type=Path, default=CONFIG, help="another settings file")
    given = parser.parse_args(words)
    with one_line_errors():
        if given.verb == "down":
            with alone("services", _waiting):
                print("stopped: " + (", ".join(down()) or "nothing was running"))
            return
        config = load_config(given.config)
        if given.verb == "up":
            with alone("services", _waiting):  # a `down` still at work would forget what this starts
                up(config)
            print(page(config))
        elif given.verb == "serve":
            serve(config, given.name or parser.error("serve: name one of " + ", ".join(ALONE)))
        elif given.verb == "env":
            for name, value in environment(config).items():
                print(f"export {name}={shlex.quote(value)}")
        else:
            for service in services(config):
                well = "well" if _runs(service.name) and service.healthy() else "not running"
                print(f"{service.name:<9} {well}")
