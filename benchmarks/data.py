"""Rows a second and memory of ingest, prepare and validate: `python -m benchmarks.data [--against COMMIT]`.

Made-up comparisons of about 1 kB each, as JSON lines, two by a prompt, go through the three stages, each in a
process of its own as `dvc repro` would start it. With --against, the build of another commit goes through the
same stages with the same file right before, in a pair; a ratio is taken within a pair, and the median of the
pairs counts. Both builds are clones in a temporary folder, with a tracking store of their own; rows a second
are over the seconds of the whole processes, their start included, and memory is the peak of a process. The
targets are in `TARGETS`. Prints Markdown; with --out it also writes data-<date>-<machine>.json
there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.machine import cores, instructions, keep, processor

# A heavy library loaded here would count in the children: the peak of a process begins with its parent's.
STAGES = ("ingest", "prepare", "validate")
SIZES = (10_000, 100_000, 200_000, 1_000_000)
BASELINE_UP_TO = 200_000  # rows; the baseline takes many minutes and gigabytes beyond
TARGETS = {
    "at 200,000 rows: rows a second, times the baseline's": (4.0, "at least"),
    "at 200,000 rows: memory, share of the baseline's": (0.25, "at most"),
    "at 1,000,000 rows: memory in GB": (2.0, "at most"),
    "at 1,000,000 rows: minutes": (3.0, "at most"),
}
CHANGES = {  # dotted key -> value; a build that has not got a key goes without
    "ingest.source": "files",
    "collect.labelers": "given",
    "evaluate.judges": ["reward-model"],
    "prepare.judge_share": 0.05,
    "prepare.test_share": 0.05,
    "base.context": 2048,
    "model.context": 2048,
}
MEASURED = ("seconds", "cpu_seconds", "memory_mb")
Figures = dict[str, dict[str, float]]  # stage -> MEASURED


def write_rows(folder: Path, number: int) -> int:
    """Write `number` comparisons and the demonstrations that the pipeline asks for; returns the bytes."""
    rng = random.Random(number)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(20_000)]

    def text(count: int) -> str:
        return " ".join(rng.choices(words, k=count))

    folder.mkdir(parents=True)
    with (folder / "comparisons.jsonl").open("w") as file:
        for i in range(number):
            if i % 2 == 0:
                prompt = text(60)
            row = {
                "prompt": prompt,
                "completions": [text(38), text(38)],
                "ranking": [1, 2] if rng.random() < 0.9 else [1, 1],
                "labeler_id": f"person-{rng.randrange(40)}",
                "seconds": rng.randrange(5, 90),
            }
            file.write(json.dumps(row) + "\n")
    with (folder / "demonstrations.jsonl").open("w") as file:
        for i in range(400):
            split = ("train", "validation", "judge", "test")[i % 4]
            row = {"prompt": text(60), "completion": text(38), "writer_id": "person-0", "split": split}
            file.write(json.dumps(row) + "\n")
    return (folder / "comparisons.jsonl").stat().st_size


def clone(folder: Path, commit: str, changes: Mapping[str, Any] = CHANGES) -> None:
    """Make a clone of this repository at a commit, with changed parameters."""
    _git("clone", "--quiet", "--shared", ".", str(folder))
    _git("-C", str(folder), "checkout", "--quiet", "--detach", commit)
    change_params(folder, changes)
    (folder / "dvc.lock").unlink(missing_ok=True)


def change_params(folder: Path, changes: Mapping[str, Any] = CHANGES) -> None:
    """Make changes in a build's params.yaml, as far as it has the keys."""
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for key, value in changes.items():
        section, name = key.split(".")
        if name in params.get(section, {}):
            params[section][name] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def environment(folder: Path) -> dict[str, str]:
    """The environment of a build's processes: its own code, tracking store and state."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RLHF_", "PREFECT_", "MLFLOW_"))}
    env |= {"PYTHONPATH": str(folder), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    return env | {"RLHF_STATE": str(folder / ".state"), "PYTHONWARNINGS": "ignore"}


def measured(folder: Path, data: Path) -> Figures:
    """Run the stages of a build on data.

    Raises:
        RuntimeError: one failed; with its last line.
    """
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["ingest"]["path"] = str(data)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    commands = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    env = environment(folder)
    figures: Figures = {}
    for stage in STAGES:
        for name in ("runs", "metrics", "reports/validation"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *shlex.split(commands[stage]["cmd"])[1:]]  # python -m ...
        started = time.monotonic()
        with (folder / "output.txt").open("w") as output:
            process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said = (folder / "output.txt").read_text().strip().splitlines() or ["(nothing)"]
            raise RuntimeError(f"{folder.name}: {stage} ended with {process.returncode}: {said[-1]}")
        figures[stage] = {
            "seconds": time.monotonic() - started,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,  # says more than seconds where others work, too
            "memory_mb": usage.ru_maxrss / 1024,
        }
    return figures


def pairs(sizes: Sequence[int], count: int, against: str | None, baseline_up_to: int) -> Iterator[Any]:
    """Measure; yields a dict with `rows`, `bytes`, `load`, `baseline` (or None) and `today` for each pair."""
    root = Path(tempfile.mkdtemp(prefix="data-benchmark-"))
    try:
        clone(root / "today", snapshot())
        if against:
            clone(root / "baseline", against)
        write_rows(root / "warm", 200)
        for name in ("today", *(["baseline"] if against else [])):
            measured(root / name, root / "warm")  # makes the tracking store, fills the caches of the disk
        for size in sizes:
            written = write_rows(root / "rows", size)
            for _ in range(count):
                old = against is not None and size <= baseline_up_to
                yield {
                    "rows": size,
                    "bytes": written,
                    "load": psutil.getloadavg()[0],
                    "baseline": measured(root / "baseline", root / "rows") if old else None,
                    "today": measured(root / "today", root / "rows"),
                }
            shutil.rmtree(root / "rows")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def summary(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each number of rows the medians over its pairs: seconds, rows a second, peak memory, ratios."""
    rows = []
    for size in dict.fromkeys(run["rows"] for run in runs):
        mine = [run for run in runs if run["rows"] == size]
        row: dict[str, Any] = {"rows": size, "pairs": len(mine)}
        for build in ("baseline", "today"):
            those = [run[build] for run in mine if run[build]]
            if those:
                row[build] = {
                    "seconds": statistics.median(_seconds(run) for run in those),
                    "memory_mb": statistics.median(_peak(run) for run in those),
                    "stages": {
                        stage: {key: statistics.median(run[stage][key] for run in those) for key in MEASURED}
                        for stage in STAGES
                    },
                }
        both = [run for run in mine if run["baseline"]]
        if both:
            row["faster"] = statistics.median(
                _seconds(run["baseline"]) / _seconds(run["today"]) for run in both
            )
            row["memory"] = statistics.median(_peak(run["today"]) / _peak(run["baseline"]) for run in both)
        rows.append(row)
    return rows


def _seconds(figures: Figures) -> float:
    return sum(stage["seconds"] for stage in figures.values())


def _peak(figures: Figures) -> float:
    return max(stage["memory_mb"] for stage in figures.values())


def reached(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What was measured of each of `TARGETS`, as far as it was."""
    figures: dict[str, float] = {}
    faster, memory, gigabytes, minutes = TARGETS
    for row in rows:
        if row["rows"] == 200_000 and "faster" in row:
            figures |= {faster: row["faster"], memory: row["memory"]}
        if row["rows"] == 1_000_000:
            figures |= {gigabytes: row["today"]["memory_mb"] / 1000, minutes: row["today"]["seconds"] / 60}
    return figures


def table(result: dict[str, Any]) -> str:
    """A result as Markdown."""
    lines = [
        "| rows | build | s | rows/s | peak MB | "
        + " | ".join(f"{stage} s (CPU), MB" for stage in STAGES)
        + " |",
        "|---" * (5 + len(STAGES)) + "|",
    ]
    for row in result["sizes"]:
        for build in ("baseline", "today"):
            if build in row:
                all_of = row[build]
                cells = [
                    f"{figures['seconds']:.1f} ({figures['cpu_seconds']:.1f}), {figures['memory_mb']:.0f}"
                    for figures in all_of["stages"].values()
                ]
                lines.append(
                    f"| {row['rows']:,} | {build} | {all_of['seconds']:.1f} | "
                    f"{row['rows'] / all_of['seconds']:,.0f} | {all_of['memory_mb']:.0f} | "
                    + " | ".join(cells)
                    + " |"
                )
    lines.append("")
    for name, value in result["targets"].items():
        wanted, word = TARGETS[name]
        lines.append(f"- {name}: {value:.2f} (asked: {word} {wanted:g})")
    loads = [run["load"] for run in result["runs"]]
    lines.append(
        f"- {result['processor']}, {result['cores']} cores; load at the start of a pair {min(loads):.1f} to "
        f"{max(loads):.1f}: other work makes it slower; baseline {result['against'] or '(none)'}"
    )
    return "\n".join(lines)


def snapshot() -> str:
    """The working tree as a commit: what is measured, whether it is committed or not."""
    return _git("stash", "create") or _git("rev-parse", "HEAD")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--against", metavar="COMMIT", help="measure the build of this commit as well")
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, metavar="N", help="numbers of rows")
    parser.add_argument("--pairs", type=int, default=3, metavar="N", help="runs of each (default: 3)")
    parser.add_argument(
        "--baseline-up-to",
        type=int,
        default=BASELINE_UP_TO,
        metavar="N",
        help="most rows that the other commit is measured with (default: 200,000)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the figures: benchmarks/results")
    arguments = parser.parse_args()
    runs = []
    for run in pairs(arguments.rows, arguments.pairs, arguments.against, arguments.baseline_up_to):
        runs.append(run)
        builds = ", ".join(
            f"{name} {_seconds(run[name]):.1f} s" for name in ("baseline", "today") if run[name]
        )
        print(f"{run['rows']:,} rows: {builds}, load {run['load']:.1f}", file=sys.stderr, flush=True)
    rows = summary(runs)
    result = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "instructions": instructions(),
        "cores": cores(),
        "commit": _git("rev-parse", "HEAD"),
        "against": arguments.against,
        "sizes": rows,
        "targets": reached(rows),
        "runs": runs,
    }
    print(table(result))
    if arguments.out:
        keep("data", result, arguments.out)


if __name__ == "__main__":
    main()
