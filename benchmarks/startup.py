"""What the stages load, and what they take with next to no work: `python -m benchmarks.startup`.

Every stage runs once after the other with small parameters, each as `python -X importtime -m tasks.<stage>`,
in a clone of this working tree, and with --against COMMIT in one of that commit right before; the medians of
the pairs count. The columns: seconds of the whole process, its CPU seconds and those of the processes that it
starts, seconds of its own imports, how many modules these are, and the peak of its memory or a child's. The
target is in `TARGET`. Prints Markdown; with --out it also writes
startup-<date>-<machine>.json there.
"""

from __future__ import annotations

import argparse
import datetime
import re
import shutil
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from benchmarks.data import clone, snapshot
from benchmarks.machine import cores, instructions, keep, processor
from benchmarks.stage_runs import commands, run_stage

SMALL = {  # dotted key -> value; a build that has not got a key goes without
    "ingest.corpus_posts": 200,
    "ingest.train_posts": 120,
    "ingest.test_posts": 40,
    "prepare.validation_share": 0.1,
    "base.steps": 2,
    "base.batch_size": 8,
    "pretrain.steps": 2,
    "pretrain.batch_size": 8,
    "sft.epochs": 0.2,
    "collect.prompts": 16,
    "reward.epochs": 1,
    "reward.batch_size": 4,
    "ppo.updates": 1,
    "ppo.batch_size": 16,
    "ppo.epochs": 1,
    "ppo.response_length": 12,
    "ppo.best_of_n": 2,
    "evaluate.prompts": 20,
    "evaluate.response_length": 12,
}
TARGET = {"imports of all stages, share of the baseline's": (0.5, "at most")}
COLUMNS = ("seconds", "cpu_seconds", "import_seconds", "modules", "memory_mb")
_IMPORT = re.compile(r"^import time:\s+(\d+) \|", re.MULTILINE)
Figures = dict[str, dict[str, float]]  # stage -> COLUMNS


def measured(folder: Path) -> Figures:
    """Run every stage of a build.

    Raises:
        RuntimeError: one failed; with its last line.
    """
    return {name: _process(folder, name, words) for name, words in commands(folder)}


def _process(folder: Path, name: str, words: list[str]) -> dict[str, float]:
    figures = run_stage(folder, name, ["-X", "importtime", *words])
    said = (folder / "output.txt").read_text()
    own = [int(microseconds) for microseconds in _IMPORT.findall(said)]
    figures |= {"import_seconds": sum(own) / 1e6, "modules": len(own)}
    return {column: figures[column] for column in COLUMNS}


def measure(count: int, against: str | None) -> list[dict[str, Any]]:
    """Pairs of runs: `load`, and for each build its figures."""
    root = Path(tempfile.mkdtemp(prefix="startup-benchmark-"))
    commits = ({"baseline": against} if against else {}) | {"today": snapshot()}
    try:
        for build, commit in commits.items():
            clone(root / build, commit, SMALL)
            measured(root / build)  # makes the tracking store, fills the caches of the disk
        return [
            {"load": psutil.getloadavg()[0]} | {build: measured(root / build) for build in commits}
            for _ in range(count)
        ]
    finally:
        shutil.rmtree(root, ignore_errors=True)


def summary(runs: list[dict[str, Any]]) -> dict[str, Figures]:
    """For each build and stage the medians over the pairs."""
    return {
        build: {
            stage: {
                column: statistics.median(run[build][stage][column] for run in runs) for column in COLUMNS
            }
            for stage in runs[0][build]
        }
        for build in runs[0]
        if build != "load"
    }


def total(figures: Figures, column: str) -> float:
    """The sum of a column over the stages."""
    return sum(values[column] for values in figures.values())


def table(result: Mapping[str, Any]) -> str:
    """A result as Markdown."""
    builds: dict[str, Figures] = result["builds"]
    names = ("s", "CPU s", "import s", "modules", "MB")
    lines = [
        "| stage | " + " | ".join(f"{build}: {name}" for build in builds for name in names) + " |",
        "|---" * (1 + len(builds) * len(names)) + "|",
    ]
    for stage in builds["today"]:
        cells = [_cells(figures.get(stage)) for figures in builds.values()]
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    sums = [
        {column: total(figures, column) for column in COLUMNS[:-1]}
        | {"memory_mb": max(values["memory_mb"] for values in figures.values())}
        for figures in builds.values()
    ]
    lines.append("| all stages, highest peak | " + " | ".join(map(_cells, sums)) + " |")
    lines.append("")
    for name, value in result["targets"].items():
        wanted, word = TARGET[name]
        lines.append(f"- {name}: {value:.2f} (asked: {word} {wanted:g})")
    loads = [run["load"] for run in result["runs"]]
    lines.append(
        f"- {result['processor']}, {result['cores']} cores; load at the start of a pair {min(loads):.1f} to "
        f"{max(loads):.1f}: other work makes it slower; baseline {result['against'] or '(none)'}"
    )
    return "\n".join(lines)


def _cells(values: Mapping[str, float] | None) -> str:
    if values is None:
        return " | ".join([""] * len(COLUMNS))
    seconds, cpu, imports, modules, memory = (values[column] for column in COLUMNS)
    return f"{seconds:.1f} | {cpu:.1f} | {imports:.2f} | {modules:.0f} | {memory:.0f}"


def shown(arguments: argparse.Namespace) -> str:
    """The command that repeats a measurement."""
    words = ["python -m benchmarks.startup"]
    words += [f"--against {arguments.against}"] if arguments.against else []
    return " ".join([*words, f"--pairs {arguments.pairs}"])


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--against", metavar="COMMIT", help="measure the build of this commit as well")
    parser.add_argument("--pairs", type=int, default=3, metavar="N", help="runs of each (default: 3)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the figures: benchmarks/results")
    arguments = parser.parse_args()
    runs = measure(arguments.pairs, arguments.against)
    builds = summary(runs)
    share, of_pairs = {}, []
    if "baseline" in builds:
        of_both = {build: total(figures, "import_seconds") for build, figures in builds.items()}
        share = {next(iter(TARGET)): of_both["today"] / of_both["baseline"]}
        of_pairs = [
            total(run["today"], "import_seconds") / total(run["baseline"], "import_seconds") for run in runs
        ]
    result = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "instructions": instructions(),
        "cores": cores(),
        "command": shown(arguments),
        "commit": snapshot(),
        "against": arguments.against,
        "builds": builds,
        "targets": share,
        "share_in_each_pair": of_pairs,
        "runs": runs,
    }
    print(table(result))
    if arguments.out:
        keep("startup", result, arguments.out)


if __name__ == "__main__":
    main()
