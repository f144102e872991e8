"""What each service is: the command that runs it, its environment, and when it is well."""

from __future__ import annotations

import json
import socket
import sys
from contextlib import suppress
from datetime import UTC, datetime
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

import psutil

from flows.services.guarded import SIGN_IN, authorization
from flows.services.processes import Service, record_of
from flows.services.settings import EVERY_ADDRESS, Config, environment
from rlhf.data.hosts import is_loopback
from tasks.runtime.places import state_dir

WORKER = "worker-of-this-machine"


def services(config: Config) -> list[Service]:
    """Every service, in the order of starting: the worker last."""
    python, state = sys.executable, state_dir()
    host, api = config.host, environment(config)
    prefect_db = config.prefect.database
    # The password goes by the environment: everybody on this machine can read command lines.
    secret = {SIGN_IN: config.sign_in} if config.sign_in else {}
    seen_as = config.names[0] if config.names else socket.gethostname() if host in EVERY_ADDRESS else host
    seen_as = "127.0.0.1" if is_loopback(host) else seen_as
    prefect_env = {"PREFECT_UI_API_URL": f"http://{seen_as}:{config.prefect.port}/api", **secret}
    if prefect_db:
        prefect_env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = with_driver(prefect_db, "asyncpg")
    mlflow_db = with_driver(config.mlflow.database or f"sqlite:///{state / 'mlflow.db'}", "psycopg")
    artifacts = config.mlflow.artifacts or (state / "mlartifacts").as_uri()
    labels = {"LABELING_DB": config.label.database} if config.label.database else {}
    names = [argument for name in config.host_names() for argument in ("--name", name)]

    def served(module: str, service: str, *arguments: str) -> list[str]:
        port = str(getattr(config, service).port)
        return [python, "-m", module, *arguments, "--host", host, "--port", port, *names]

    # Names on loopback are those of a proxy in front. Without its word all who label would seem to be at one
    # address, where wrong passwords for a name keep out everybody who signs in under it for the first time.
    proxy = ["--behind-proxy"] if config.names and is_loopback(host) else []

    worker = ["--pool", config.worker.pool, "--type", "process", "--name", WORKER]
    worker += ["--limit", str(config.worker.runs)]
    return [
        Service(
            "prefect",
            served("flows.services.guarded", "prefect", "prefect"),
            prefect_env,
            lambda: answers(f"{config.url('prefect')}/api/health"),
        ),
        Service(
            "mlflow",
            served("flows.services.guarded", "mlflow", "mlflow"),
            {
                **secret,
                "MLFLOW_BACKEND_STORE_URI": mlflow_db,
                "MLFLOW_DEFAULT_ARTIFACT_ROOT": artifacts,
                # Jobs score traces of language models; their processes cost half a minute at the start.
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
            lambda: answers(f"{config.url('mlflow')}/health"),
        ),
        Service(
            "label",
            served("flows.label", "label", *proxy),
            {**api, **labels},
            lambda: answers(config.url("label")),
        ),
        Service(
            "pages",
            served("flows.services.pages", "pages"),
            secret,
            lambda: answers(config.url("pages")),
        ),
        Service(
            "worker",
            [python, "-m", "prefect", "worker", "start", *worker],
            {**api, **labels, "PREFECT_WORKER_QUERY_SECONDS": "2"},
            lambda: _working(config),
        ),
    ]


def _working(config: Config) -> bool:
    """Whether the worker has reported to the server since it was started."""
    pool = quote(config.worker.pool)
    request = Request(
        f"{config.url('prefect')}/api/work_pools/{pool}/workers/filter",
        data=b"{}",
        headers={"Content-Type": "application/json", **authorization(config.sign_in)},
    )
    with suppress(OSError, ValueError, KeyError, psutil.Error), urlopen(request, timeout=5) as answer:
        since = datetime.fromtimestamp(psutil.Process(record_of("worker")["pid"]).create_time(), UTC)
        for worker in json.load(answer):
            if worker["name"] == WORKER and datetime.fromisoformat(worker["last_heartbeat_time"]) > since:
                return True
    return False


def answers(url: str) -> bool:
    """Whether a server answers at this address, be it with a request for the password."""
    try:
        with urlopen(url, timeout=5) as answer:
            return answer.status < 400
    except HTTPError as error:
        return error.code == 401  # it asks for the password
    except (URLError, OSError):
        return False


def with_driver(url: str, driver: str) -> str:
    """A PostgreSQL URL with the driver that is installed."""
    scheme, sign, rest = url.partition("://")
    return f"postgresql+{driver}://{rest}" if sign and scheme in ("postgres", "postgresql") else url
