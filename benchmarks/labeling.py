"""The labeling app under load, and with its server killed again and again.

    python -m benchmarks.labeling                      # 200 people, 20,000 judgments, SQLite and PostgreSQL
    python -m benchmarks.labeling --databases sqlite --judgments 2000 --kills 0
    python -m benchmarks.labeling --cores 2 3          # the server on one core, its people on another

The server is one process, its people are another: each opens an item's page, waits about a second, sends
the form, and has the next page. What is timed (p50, p95, p99 in milliseconds) is a labeler's wait: from
sending the form until its response is there, which is the page with the next item; with `--interfaces api`,
until the answer with the next item is there. A request that fails is sent again with the same key until it
is acknowledged, and that time counts. Afterwards every acknowledged key, and every pair of labeler and
item, must stand in the store exactly once. Writes results/labeling-<date>-<machine>.json after each run;
`fsync ms` is the median time that this disk takes to make 4 KiB durable, measured before the run.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import asyncio
import datetime
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from benchmarks.labeling_load import Load, Server, drive
from benchmarks.machine import processor
from benchmarks.postgres import binaries, temporary_postgres
from labeling import people
from labeling.candidates import Candidate
from labeling.items import Filling, add_items
from labeling.projects import add_guideline, add_project
from labeling.queues import add_queue, queue_row
from labeling.schema import items, labels, users
from labeling.store import Store

LIMIT_MS = 100.0
HEADS = (
    "database",
    "",
    "kills",
    "judged",
    "per s",
    "p50",
    "p95",
    "p99",
    "cpu ms",
    "fsync ms",
    "load",
    "lost",
)
ROW = "{:<12}{:<7}{:>6}{:>8}{:>8}{:>9}{:>9}{:>9}{:>8}{:>9}{:>6}{:>6}{:>8}"


def prepare(database: str, load: Load) -> tuple[int, list[str]]:
    """A store with one queue of enough items and a signed-in labeler each; the queue's id and the tokens of
    the users 1, 2, ..."""
    store = Store(database)
    text = "a sentence of a usual length about this and that, " * 4
    candidates = [
        Candidate(f"prompt {i}: {text}", (f"one {i}: {text}", f"two {i}: {text}"), ("a", "b"))
        for i in range(load.judgments + load.people)
    ]
    with store.write() as tx:
        project = add_project(tx, "load", "benchmark")
        add_guideline(tx, project, "Be kind.", "benchmark")
        add_queue(tx, project, "q", "compare", "benchmark")
        row = queue_row(tx, "load", "q")
        add_items(tx, row, candidates, Filling(), "benchmark")
        group = people.group_id(tx, "labelers")
        names = [f"labeler {i}" for i in range(load.people)]
        values = {"role": "labeler", "group_id": group, "active": True, "created": time.time()}
        tx.execute(users.insert(), [values | {"name": name} for name in names])
        tokens = [people.open_session(tx, people.id_of(tx, name)) for name in names]
    store.close()
    return row.id, tokens


def measure(database: str, load: Load, core: int | None = None) -> dict[str, Any]:
    """Run a load against a fresh store and check what is stored.

    Args:
        database: URL of an empty database.
        load: what is asked of the server.
        core: which the server is pinned to.

    Returns:
        latencies in milliseconds, judgments a second, the processor time of the server and of the people in
        milliseconds a judgment, the shares of time that the server's core was idle and that a virtual
        machine's host gave it to others, retries, and the counts of `check`.
    """
    queue, tokens = prepare(database, load)
    fsync, (idle, stolen) = fsync_ms(), idle_and_stolen(core)
    server = Server(database, core)
    before, own = spent(server), time.process_time()
    started = time.perf_counter()
    try:
        seen = asyncio.run(drive(server, queue, tokens, load))
        seconds = time.perf_counter() - started
        used, own = spent(server) - before, time.process_time() - own
        idle, stolen = (now - then for now, then in zip(idle_and_stolen(core), (idle, stolen), strict=True))
    finally:
        server.stop()
    return {
        "interface": load.interface,
        "people": load.people,
        "judgments": len(seen.acknowledged),
        "kills": load.kills,
        "seconds": round(seconds, 1),
        "judgments_per_s": round(len(seen.acknowledged) / seconds, 1),
        "server_cpu_ms": None if load.kills else round(1000 * used / load.judgments, 2),
        "people_cpu_ms": round(1000 * own / load.judgments, 2),
        "core_idle": None if core is None else round(idle / seconds, 3),
        "core_stolen": None if core is None else round(stolen / seconds, 3),
        "fsync_ms": fsync,
        "load_average": os.getloadavg()[0],
        "retries": seen.retries,
        "latency_ms": percentiles(seen.latencies),
        **check(database, seen.acknowledged),
    }


def spent(server: Server) -> float:
    """Seconds of processor time that the server's process took so far."""
    times = psutil.Process(server.process.pid).cpu_times()
    return times.user + times.system


def idle_and_stolen(core: int | None) -> tuple[float, float]:
    """Seconds since the machine started that a core had nothing to do, or waited for a disk; and that a
    virtual machine's host gave it to others (0 where the system does not tell)."""
    if core is None:
        return 0.0, 0.0
    times = psutil.cpu_times(percpu=True)[core]
    return times.idle + times.iowait, getattr(times, "steal", 0.0)


def fsync_ms(times: int = 101) -> float:
    """Median milliseconds until 4 KiB more of a file are on the disk of the temporary folder."""
    times_taken = []
    with tempfile.TemporaryFile(buffering=0) as file:
        for _ in range(times):
            started = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            times_taken.append(time.perf_counter() - started)
    return round(1000 * statistics.median(times_taken), 2)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile and maximum, in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    named = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(seconds)}
    return {name: round(1000 * value, 1) for name, value in named.items()}


def check(database: str, acknowledged: list[tuple[int, str]]) -> dict[str, int]:
    """How many acknowledged judgments are lost, or doubled, by labeler and key and by labeler and item, and
    how many items have more than one label, which they should not."""
    store = Store(database, create=False)
    with store.read() as tx:
        stored = Counter(map(tuple, tx.execute(sa.select(labels.c.user_id, labels.c.key))))
        pairs = Counter(map(tuple, tx.execute(sa.select(labels.c.user_id, labels.c.item_id))))
        per_item = sa.select(sa.func.count()).select_from(labels).group_by(labels.c.item_id)
        crowded = sum(count > 1 for count in tx.scalars(per_item))
        over = tx.scalar(sa.select(sa.func.count()).where(items.c.taken > items.c.target)) or 0
    store.close()
    return {
        "stored": sum(stored.values()),
        "lost": sum(judgment not in stored for judgment in acknowledged),
        "doubled": sum(count > 1 for count in (stored | pairs).values())
        + len(acknowledged)
        - len(set(acknowledged)),
        "items_with_two_labels": crowded,
        "items_over_target": over,
    }


@contextmanager
def fresh(kind: str) -> Iterator[str]:
    """The URL of an empty database."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/labels.db"
        return
    folder = binaries()
    if folder is None:
        raise SystemExit(
            "error: no PostgreSQL server here; install the package postgresql, or --databases sqlite"
        )
    with temporary_postgres(folder) as server:
        server.execute("CREATE DATABASE load")
        yield server.url("load")


def main() -> None:
    """Measure, print the table, write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.labeling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--databases", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"]
    )
    parser.add_argument("--interfaces", nargs="+", choices=("pages", "api"), default=["pages", "api"])
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--judgments", type=int, default=20_000)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between page and answer")
    parser.add_argument("--kills", type=int, nargs="+", default=[0, 20], help="one run for each number")
    parser.add_argument(
        "--cores",
        type=int,
        nargs=2,
        metavar=("SERVER", "PEOPLE"),
        help="pin the server to one core and its people to another",
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    runs = []
    server_core, people_core = options.cores or (None, None)
    print(ROW.format(*HEADS, "doubled"))
    for interface, kind, kills in itertools.product(options.interfaces, options.databases, options.kills):
        with fresh(kind) as database, pinned(people_core):
            load = Load(options.people, options.judgments, options.pause, kills, interface)
            run = measure(database, load, server_core)
        runs.append({"database": kind, **run})
        row = [kind, interface, kills, run["judgments"], run["judgments_per_s"]]
        row += [run["latency_ms"][name] for name in ("p50", "p95", "p99")]
        row += [run["server_cpu_ms"] or "-", run["fsync_ms"], round(run["load_average"], 1)]
        print(ROW.format(*row, run["lost"], run["doubled"]), flush=True)
        written = write(options.out, runs, options.cores)
    print(f"wrote {written}")
    quiet = [run for run in runs if not run["kills"]]
    slow = [f"{run['database']} {run['interface']}" for run in quiet if run["latency_ms"]["p95"] > LIMIT_MS]
    wrong = [run["database"] for run in runs if run["lost"] or run["doubled"] or run["items_over_target"]]
    if slow or wrong:
        raise SystemExit(
            f"failed: slower than {LIMIT_MS:g} ms: {slow or 'none'}; lost or doubled: {wrong or 'none'}"
        )


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """This process on one core for a while, if one is named."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def write(folder: Path, runs: list[dict[str, Any]], pins: list[int] | None) -> Path:
    """Write the results with what they were measured on; the file."""
    folder.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0))
    record = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": cores,
        "pinned": dict(zip(("server", "people"), pins, strict=True)) if pins else None,
        "python": platform.python_version(),
        "runs": runs,
    }
    name = f"labeling-{record['date']}-{platform.machine()}-{cores}cores.json"
    (folder / name).write_text(json.dumps(record, indent=2) + "\n")
    return folder / name


if __name__ == "__main__":
    main()
