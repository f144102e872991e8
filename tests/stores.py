"""What a cluster has in place of local files, for tests: PostgreSQL, an S3 server, two Prefect workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
import pytest
import yaml
from conftest import PATIENCE, free_port
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled

from benchmarks.postgres import Postgres
from flows.services import up
from flows.services.catalogue import answers, services
from flows.services.processes import start, wait_until_well
from flows.services.settings import Config, environment, load_config

BUCKET = "s3://rlhf"
STORES = {"prefect": "prefect", "mlflow": "mlflow", "label": "labels"}  # service -> its database
STOP_SECONDS = 60.0  # that a worker without a run may take to stop


@contextmanager
def temporary_s3() -> Iterator[dict[str, str]]:
    """An S3 server with the bucket `BUCKET`; yields the environment that leads every client to it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while not answers(url):
            assert server.poll() is None, "the S3 server ended at once"
            assert time.monotonic() < end, "the S3 server does not answer"
            time.sleep(0.1)
        client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.create_bucket(Bucket=BUCKET.removeprefix("s3://"))
        yield {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": url,
        }
    finally:
        server.terminate()
        server.wait(20)


@contextmanager
def servers(postgres: Postgres, patch: pytest.MonkeyPatch) -> Iterator[Config]:
    """Prefect and MLflow, as `make up` starts them, on these stores; the environment leads to all of them.

    The services of the working directory; RLHF_STATE names their state folder.
    """
    parts: dict[str, dict[str, Any]] = {name: {"port": free_port()} for name in STORES}
    for name, database in STORES.items():
        postgres.execute(f"CREATE DATABASE {database}")
        parts[name]["database"] = postgres.url(database)
    parts["mlflow"]["artifacts"] = f"{BUCKET}/mlflow"
    Path("services.yaml").write_text(yaml.safe_dump(parts, sort_keys=False))
    config = load_config()
    with temporary_s3() as s3:
        for name, value in {
            **s3,
            **environment(config),
            "LABELING_DB": postgres.url("labels"),
        }.items():
            patch.setenv(name, value)
        started = [service for service in services(config) if service.name in ("prefect", "mlflow")]
        try:
            for service in started:
                start(config, service)
            for service in started:
                wait_until_well(service)
            yield config
        finally:
            up.down()


def by_two_workers(runs: dict[str, dict[str, Any]]) -> dict[str, tuple[Any, str]]:
    """Have two workers of one pool take these runs of the pipeline, one each.

    Args:
        runs: name -> parameters of the flow.

    Returns:
        name -> the state in which the run ended, and what its worker printed.
    """
    from flows.pipeline import rlhf

    steps = [{"prefect.deployments.steps.set_working_directory": {"directory": str(Path.cwd())}}]
    env = {**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    with (
        temporary_settings({PREFECT_API_URL: os.environ["PREFECT_API_URL"]}),
        get_client(sync_client=True) as client,
    ):
        workers = [
            subprocess.Popen(["deploy/worker.sh"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for _ in range(2)
        ]
        try:
            pool = _pool_of_two(client, env.get("RLHF_POOL", "rlhf"))
            deployment = client.create_deployment(
                client.create_flow(rlhf),
                "pipeline",
                entrypoint="flows.pipeline.rlhf",
                pull_steps=steps,
                work_pool_name=pool,
            )
            ids = {
                client.create_flow_run_from_deployment(
                    deployment, name=name, parameters=parameters, state=Scheduled()
                ).id: name
                for name, parameters in runs.items()
            }
            states = {ids[flow_run]: _ended(client, flow_run) for flow_run in ids}
        finally:
            for worker in workers:
                worker.terminate()
            printed = [_printed(worker) for worker in workers]
    return {
        name: (states[name], next((text for text in printed if str(flow_run) in text), ""))
        for flow_run, name in ids.items()
    }


def _pool_of_two(client: Any, name: str) -> str:
    """Wait until both workers look for work in the pool, which the first one makes."""
    from prefect.exceptions import PrefectHTTPStatusError

    end = time.monotonic() + PATIENCE
    while True:
        with suppress(PrefectHTTPStatusError):
            if len(client.read_workers_for_work_pool(name)) == 2:
                return name
        assert time.monotonic() < end, "two workers have not started"
        time.sleep(0.2)


def _printed(worker: subprocess.Popen[bytes]) -> str:
    """What a worker printed. Its runs have ended; a worker that missed the end of one waits for ever, and is
    killed after a while, which loses nothing."""
    try:
        return worker.communicate(timeout=STOP_SECONDS)[0].decode()
    except subprocess.TimeoutExpired:
        worker.kill()
        return worker.communicate()[0].decode()


def _ended(client: Any, flow_run: UUID) -> Any:
    end = time.monotonic() + PATIENCE
    while not (state := client.read_flow_run(flow_run).state).is_final():
        assert time.monotonic() < end, f"the run is still {state.name}"
        time.sleep(0.5)
    return state
