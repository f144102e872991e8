"""MLflow, Prefect, PostgreSQL and S3 gone, slow or failing for a minute in a stage: nothing is missing.

Prefect and MLflow run on PostgreSQL, MLflow's artifacts are on an S3 server, and a proxy stands before each
of the four. A try runs one stage again, while the others come from DVC's cache: when the stage begins, a
service goes away, answers every request five seconds late or breaks every connection. After a minute all is
well again. The run must end well, and what the stage left in MLflow and Prefect must be what an undisturbed
run leaves: every point of its curves, its parameters, its artifacts.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import yaml
from conftest import PATIENCE, free_port
from job import STAGES, Ended
from lab import Lab, Try, stages_of
from proxy import MODES, Mode, Proxy, proxy
from stores import BUCKET, temporary_s3

from benchmarks.postgres import Postgres, binaries, temporary_postgres
from flows.services.catalogue import answers

FAMILY = "services"
SERVICES = ("MLflow", "Prefect", "PostgreSQL", "S3")
AWAY_SECONDS = 60.0


class Stores:
    """The lab's job on servers, each behind a proxy.

    Attributes:
        proxies: name of the service -> the proxy before it.
        usual: stage -> what an undisturbed execution of it leaves (see `left`).
    """

    def __init__(self, lab: Lab, postgres: Postgres, proxies: dict[str, Proxy]) -> None:
        self.lab, self.postgres, self.proxies = lab, postgres, proxies
        self.usual: dict[str, dict[str, Any]] = {}

    def rerun(self, stage: str, name: str) -> subprocess.Popen[str]:
        """Start a run in which this stage alone has to be executed."""
        job = self.lab.job
        lock = yaml.safe_load((job.clone / "dvc.lock").read_text())
        lock["stages"].pop(stage, None)
        (job.clone / "dvc.lock").write_text(yaml.safe_dump(lock))
        subprocess.run(["rm", "-rf", str(job.clone / ".dvc/cache/runs")], check=True)
        subprocess.run(["rm", "-rf", str(job.clone / "checkpoints" / stage)], check=True)
        return job.start("flows.run", "--name", name, log=job.state.parent / "life.log")

    def left(self, stage: str, name: str) -> dict[str, Any]:
        """What the execution of a stage in the run of this name left in MLflow and in Prefect."""
        url = self.postgres.url("mlflow")
        with psycopg.connect(url) as connection:

            def rows(query: str) -> list[tuple[Any, ...]]:
                return connection.execute(query, {"name": f"{stage} {name}"}).fetchall()  # type: ignore[arg-type]

            mine = "(SELECT run_uuid FROM runs WHERE name = %(name)s)"
            status = Counter(status for (status,) in rows("SELECT status FROM runs WHERE name = %(name)s"))
            points = rows(
                f"SELECT key, count(DISTINCT step) FROM metrics WHERE run_uuid IN {mine} "
                "AND key NOT LIKE 'system/%%' GROUP BY key ORDER BY key"
            )
            params = rows(f"SELECT key, value FROM params WHERE run_uuid IN {mine} ORDER BY key")
            artifacts = rows("SELECT artifact_uri FROM runs WHERE name = %(name)s")
        with psycopg.connect(self.postgres.url("prefect")) as connection:
            states = connection.execute(
                "SELECT f.state_type, t.name, t.state_type FROM flow_run f JOIN task_run t "
                "ON t.flow_run_id = f.id WHERE f.name = %s ORDER BY t.name",
                [name],
            ).fetchall()
            shown = connection.execute(
                "SELECT DISTINCT a.key FROM artifact a JOIN flow_run f ON a.flow_run_id = f.id "
                "WHERE f.name = %s AND a.type = 'markdown' AND a.key IN ('links', 'verdict', %s)",
                [name, f"stage-{stage}"],
            ).fetchall()
        return {
            "status": dict(status),
            "points": points,
            "params": params,
            "artifacts": sorted(self._files(uri) for (uri,) in artifacts),
            "prefect": states,
            "shown": sorted(shown),
        }

    def _files(self, uri: str) -> list[str]:
        """The files of a run in S3."""
        import boto3

        place = urlsplit(uri)
        names = {"endpoint_url": "AWS_ENDPOINT_URL", "region_name": "AWS_DEFAULT_REGION"}
        names |= {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
        client = boto3.client("s3", **{key: self.lab.job.env[name] for key, name in names.items()})  # type: ignore[call-overload]
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=place.netloc, Prefix=place.path.strip("/")
        )
        found = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return sorted(key.removeprefix(place.path.strip("/")) for key in found)


@contextmanager
def stores(lab: Lab) -> Iterator[Stores]:
    """Bring the lab's finished job onto servers behind proxies."""
    programs = binaries()
    if programs is None:
        raise SystemExit("error: the family `services` needs PostgreSQL (postgres on PATH)")
    job = lab.back("done")
    with ExitStack() as stack:
        postgres = stack.enter_context(temporary_postgres(programs, durable=False))
        for name in ("prefect", "mlflow"):
            postgres.execute(f"CREATE DATABASE {name}")
        s3 = stack.enter_context(temporary_s3())
        socket = next(Path(postgres.socket).glob(".s.PGSQL.*[0-9]"))
        ports = {name: free_port() for name in ("prefect", "mlflow")}
        bucket = urlsplit(s3["AWS_ENDPOINT_URL"])
        upstreams: dict[str, Any] = {
            "MLflow": ("127.0.0.1", ports["mlflow"]),
            "Prefect": ("127.0.0.1", ports["prefect"]),
            "PostgreSQL": socket,
            "S3": ("127.0.0.1", bucket.port),
        }
        proxies = {name: stack.enter_context(proxy(upstream)) for name, upstream in upstreams.items()}
        database = f"postgresql://{postgres.user}@127.0.0.1:{proxies['PostgreSQL'].port}"
        parts: dict[str, dict[str, Any]] = {
            name: {"port": port, "database": f"{database}/{name}"} for name, port in ports.items()
        }
        parts["mlflow"]["artifacts"] = f"{BUCKET}/mlflow"
        (job.clone / "services.yaml").write_text(yaml.safe_dump(parts))
        job.git("commit", "-qam", "servers")
        job.env |= s3 | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxies['S3'].port}"}
        for name in ports:
            server = job.start("flows.services", "serve", name, log=job.state.parent / f"{name}.log")
            stack.callback(server.wait)
            stack.callback(server.kill)
        for name, path in (("mlflow", "/health"), ("prefect", "/api/health")):
            end = time.monotonic() + PATIENCE
            while not answers(f"http://127.0.0.1:{ports[name]}{path}"):
                if time.monotonic() > end:
                    raise SystemExit(f"error: {name} does not answer; see {job.state.parent}/{name}.log")
                time.sleep(0.2)
        job.env["PREFECT_API_URL"] = f"http://127.0.0.1:{proxies['Prefect'].port}/api"
        job.env["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{proxies['MLflow'].port}"
        yield Stores(lab, postgres, proxies)


def undisturbed(here: Stores, stage: str) -> dict[str, Any]:
    """What the stage leaves when all is well; found out once."""
    if stage not in here.usual:
        name = f"usual-{stage}"
        process = here.rerun(stage, name)
        if process.wait(PATIENCE):
            log = here.lab.job.state.parent / "life.log"
            raise SystemExit(f"error: the undisturbed run of {stage} failed:\n{log.read_text()[-2000:]}")
        here.usual[stage] = here.left(stage, name)
    return here.usual[stage]


def disturb(here: Stores, service: str, mode: Mode, stage: str, seconds: float, number: int) -> Try:
    """One service is not well for some seconds from the beginning of a stage."""
    done = Try(FAMILY, f"{service} {mode}", f"{seconds:.0f} s from the beginning of {stage}")
    usual, name, job = undisturbed(here, stage), f"try-{number}", here.lab.job
    started = time.monotonic()
    proxied = here.proxies[service]
    before = proxied.touched
    process = here.rerun(stage, name)
    while process.poll() is None and stage not in stages_of(job):
        time.sleep(0.05)
    proxied.become(mode)
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    proxied.become("well")
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        done.fault("the run did not end")
        job.kill("flow")
        process.wait()
    ended = Ended(process.returncode, (job.state.parent / "life.log").read_text())
    done.said = ended.line
    if ended.code:
        done.fault(f"the run failed: {ended.said[-800:]}")
    else:
        left = here.left(stage, name)
        done.fault(
            *(f"{what}: {left[what]} for {usual[what]}" for what in usual if left[what] != usual[what])
        )
        if different := [
            path for path, value in here.lab.expected.items() if job.hashes().get(path) != value
        ]:
            done.fault(f"other bytes: {different}")
    if mode != "down":
        done.detail += f"; {proxied.touched - before} requests hit"
    done.seconds = round(time.monotonic() - started, 1)
    return done


def plan(tries: int, seed: int) -> list[tuple[str, Mode, str]]:
    """Which service is how in which stage; every service and mode come equally often."""
    rng = random.Random(seed)
    pairs = [(service, mode) for service in SERVICES for mode in MODES]
    drawn = [pair for _ in range(-(-tries // len(pairs))) for pair in rng.sample(pairs, len(pairs))][:tries]
    stages = [stage for _ in range(-(-tries // len(STAGES))) for stage in rng.sample(STAGES, len(STAGES))]
    return [(service, mode, stage) for (service, mode), stage in zip(drawn, stages, strict=False)]


def run(lab: Lab, tries: int, seed: int, seconds: float = AWAY_SECONDS) -> Iterator[Try]:
    """The whole family."""
    with stores(lab) as here:
        for number, (service, mode, stage) in enumerate(plan(tries, seed)):
            yield disturb(here, service, mode, stage, seconds, number)
