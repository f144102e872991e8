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
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil

from flows.machine import living
from flows.mlflow_views import mlflow_page, view_url, write_views
from flows.services.catalogue import services, with_driver
from flows.services.deployments import deploy
from flows.services.processes import (
    base_environment,
    is_running,
    logs_folder,
    record_of,
    record_path,
    refuse_taken_port,
    running_environment,
    start,
    stop,
    wait_until_well,
)
from flows.services.settings import CONFIG, Config, environment, load_config
from rlhf.data.errors import DataError
from tasks.runtime.errors import one_line_errors
from tasks.runtime.faults import refuse_bad_sqlite
from tasks.runtime.locks import alone
from tasks.runtime.places import state_dir
from tasks.runtime.tracking import connect

ALONE = ("prefect", "mlflow", "label", "pages")  # services that are of use without the others


def up(config: Config) -> None:
    """Start what is not running, wait until all is well, and deploy the flows.

    Raises:
        DataError: a port is taken, a database is damaged, or a service does not become well.
    """
    *others, worker = services(config)
    for service in others:
        if not is_running(service.name):
            refuse_taken_port(config, service.name)
    if not (config.mlflow.database or config.mlflow.artifacts):
        connect_locally()
    if not (config.prefect.database or is_running("prefect")):
        refuse_bad_sqlite(state_dir() / "prefect/prefect.db", "Prefect's database")
    _first_operator(config)
    for service in others:
        start(config, service)
    for service in others:
        wait_until_well(service)
    start(config, worker)  # it looks for work on Prefect's server
    wait_until_well(worker)
    deploy(config, {**base_environment(), **environment(config)}, record_path("deployed"))


def serve(config: Config, name: str) -> NoReturn:
    """Become one service, on the port and with the store that `up` would give it.

    Raises:
        DataError: it runs already, or its port is taken.
    """
    if is_running(name):
        raise DataError(f"{name} runs already: {record_of(name)['url']}; make down stops it")
    refuse_taken_port(config, name)
    service = next(service for service in services(config) if service.name == name)
    env, address = {**base_environment(), **service.env}, config.url(name)
    if name == "mlflow" and not (config.mlflow.database or config.mlflow.artifacts):
        connect_locally()
        write_views()
        address = view_url(address)
    if name == "label":
        # The app asks the registry for @champion: MLflow's server, or its database where no server runs.
        for variable in environment(config):
            env.pop(variable)
        if config.mlflow.database:
            env["MLFLOW_TRACKING_URI"] = with_driver(config.mlflow.database, "psycopg")
        env |= running_environment()
    print(f"{name}: {address}  (Ctrl-C stops it)", flush=True)
    os.execve(service.command[0], service.command, env)


def cut_by_down() -> list[str]:
    """The runs at work that a `down` now would stop, a line each with how to go on."""
    if not (is_running("worker") or is_running("prefect")):
        return []
    lines = []
    for record in living():
        with suppress(psutil.Error):
            above = {process.pid for process in psutil.Process(record.pid).parents()}
            mine = is_running("worker") and record_of("worker")["pid"] in above
            state = record.reached()
            after = f" after {state.ended[-1]}" if state and state.ended else " in its first stage"
            if mine:
                on = "after make up, a run with the same parameters goes on from its last checkpoint"
                lines.append(f"run {record.name!r} is stopped{after}; {on}")
            elif is_running("prefect"):
                on = "give the command again: it goes on from its last checkpoint"
                lines.append(
                    f"run {record.name!r} (process {record.pid}) loses Prefect's server{after}: it waits "
                    f"some minutes for make up, else {on}"
                )
    return lines


def down() -> list[str]:
    """Stop what `up` started, the worker first, so that its runs can end; returns what was stopped."""
    stopped = []
    for name in ("worker", "label", "pages", "mlflow", "prefect"):
        if is_running(name):
            stop(psutil.Process(record_of(name)["pid"]))
            stopped.append(name)
        record_path(name).unlink(missing_ok=True)
    return stopped


def page(config: Config) -> str:
    """The addresses, and what is where."""
    rows = {
        "Prefect": f"{config.url('prefect')}/deployments  start, watch and cancel runs",
        "MLflow": f"{mlflow_page(config.url('mlflow'))}  runs compared, curves, the registry",
        "labeling": f"{config.url('label')}  compare outputs; /ask talks to @champion",
        "reports": f"{config.url('pages')}  reports and Data Docs of the runs",
        "worker": f"takes runs of the pool {config.worker.pool!r}, {config.worker.runs} at once",
        "logs": f"{logs_folder()}/*.log",
        "stop": "make down",
    }
    return "\n".join(f"{name:<9} {text}" for name, text in rows.items())


def connect_locally() -> None:
    """Make the local tracking store, with artifacts at a place that works with and without the server."""
    address = os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        connect()
    finally:
        if address:
            os.environ["MLFLOW_TRACKING_URI"] = address


def _first_operator(config: Config) -> None:
    """Make the labeling app's first operator here: its password is shown here and is in no log."""
    from labeling.address import store_address
    from labeling.first_operator import ensure_operator
    from labeling.store import Store

    store = Store(config.label.database or store_address(state_dir()))
    ensure_operator(store)
    store.close()


def _waiting() -> None:
    print("another up or down is at work; waiting for it", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """The command line; ends with exit code 1 and one line where a service cannot be started."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.services",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "verb", choices=("up", "down", "status", "env", "serve"), help="env: shell lines to use them"
    )
    parser.add_argument("name", nargs="?", choices=ALONE, help="the service to serve")
    parser.add_argument("--config", type=Path, default=CONFIG, help="another settings file")
    options = parser.parse_args(arguments)
    with one_line_errors():
        if options.verb == "down":
            with alone("services", _waiting):
                for line in cut_by_down():
                    print(line, flush=True)
                print("stopped: " + (", ".join(down()) or "nothing was running"))
            return
        config = load_config(options.config)
        if options.verb == "up":
            with alone("services", _waiting):  # a `down` still at work would forget what this starts
                up(config)
            print(page(config))
        elif options.verb == "serve":
            serve(config, options.name or parser.error("serve: name one of " + ", ".join(ALONE)))
        elif options.verb == "env":
            for name, value in environment(config).items():
                print(f"export {name}={shlex.quote(value)}")
        else:
            for service in services(config):
                well = "well" if is_running(service.name) and service.healthy() else "not running"
                print(f"{service.name:<9} {well}")
