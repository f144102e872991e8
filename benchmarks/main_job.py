"""The main job, `make run` with its default parameters, stage by stage.

    python -m benchmarks.main_job --against COMMIT          # today's build beside that of a commit, in pairs
    python -m benchmarks.main_job --busy 2                  # today's build alone, and beside busy programs

Each run is a fresh clone of this working tree or of the commit, whose stages run as processes one after
another, without Prefect and DVC; a pair is two runs right after each other, with the next seed. The columns:
the sum of the seconds of all stages, processor seconds, the highest peak of memory, and how often each policy
was preferred to the reference. Busy programs multiply matrices on all cores for as long as a run lasts.
Prints Markdown; with --out it also writes main-job-<date>-<machine>.json (busy-... with --busy).
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.data import clone, snapshot
from benchmarks.machine import cores, instructions, keep, processor
from benchmarks.stage_runs import run_stages

TARGETS = {
    "against": ("the sum of all stages, share of the baseline's", 0.6),
    "memory": ("peak memory, share of the baseline's", 1.0),
    "busy": ("the sum of all stages beside busy programs, share of quiet", 2.2),
}
BUSY = "import torch; a = torch.ones(1000, 1000)\nwhile True: a @ a"


def run(folder: Path, commit: str, seed: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Run all stages of a commit in a new clone, which is removed; its stages and its policies' rates."""
    clone(folder, commit, changes)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(params | {"seed": seed}, sort_keys=False))
    try:
        stages = run_stages(folder)
        policies = json.loads((folder / "metrics/evaluation.json").read_text())["policies"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "stages": stages,
        "seconds": sum(stage["seconds"] for stage in stages.values()),
        "cpu_seconds": sum(stage["cpu_seconds"] for stage in stages.values()),
        "memory_mb": max(stage["memory_mb"] for stage in stages.values()),
        "rates": {
            name: {key: policy[key] for key in ("rate", "low", "high")} for name, policy in policies.items()
        },
    }


@contextmanager
def busy(programs: int) -> Iterator[None]:
    """So many programs beside, each with as many threads as there are cores."""
    beside = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(programs)]
    try:
        yield
    finally:
        for process in beside:
            process.kill()
            process.wait()


def measure(options: argparse.Namespace, changes: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """After each pair of runs, all pairs so far: `seed`, `load`, and the runs by name."""
    root = Path(tempfile.mkdtemp(prefix="main-job-"))
    today, pairs = snapshot(), []
    try:
        for seed in range(options.seed, options.seed + options.pairs):
            pair: dict[str, Any] = {"seed": seed, "load": psutil.getloadavg()[0]}
            if options.against:
                pair["baseline"] = run(root / "baseline", options.against, seed, changes)
            pair["today"] = run(root / "today", today, seed, changes)
            if options.busy:
                with busy(options.busy):
                    pair["busy"] = run(root / "busy", today, seed, changes)
            pairs.append(pair)
            print(f"  seed {seed}: " + said(pair), file=sys.stderr, flush=True)
            yield pairs
    finally:
        shutil.rmtree(root, ignore_errors=True)


def said(pair: Mapping[str, Any]) -> str:
    """The seconds of a pair in a line."""
    return ", ".join(f"{name} {pair[name]['seconds']:.0f} s" for name in _names(pair))


def _names(pair: Mapping[str, Any]) -> list[str]:
    return [name for name in ("baseline", "today", "busy") if name in pair]


def ratios(pairs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What is asked for, as ratios within the pairs: median, least and most."""
    asked = []
    if "baseline" in pairs[0]:
        asked += [("against", "today", "baseline", "seconds"), ("memory", "today", "baseline", "memory_mb")]
    if "busy" in pairs[0]:
        asked.append(("busy", "busy", "today", "seconds"))
    result = {}
    for name, ours, other, figure in asked:
        values = [pair[ours][figure] / pair[other][figure] for pair in pairs]
        result[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return result


def table(result: Mapping[str, Any]) -> str:
    """A result as Markdown."""
    pairs, names = result["pairs"], _names(result["pairs"][0])
    rows = list(pairs[0]["today"]["stages"])
    lines = [
        "| stage | " + " | ".join(f"{name}, s" for name in names) + " |",
        "|---" * (1 + len(names)) + "|",
    ]
    for stage in rows:
        cells = [_median(pairs, name, stage) for name in names]
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    for label, figure, digits in (
        ("all stages, s", "seconds", 1),
        ("processor, s", "cpu_seconds", 1),
        ("highest peak, MB", "memory_mb", 0),
    ):
        cells = [f"{statistics.median(pair[name][figure] for pair in pairs):.{digits}f}" for name in names]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += ["", "| seed | " + " | ".join(f"{name}: preferred to the reference" for name in names) + " |"]
    lines.append("|---" * (1 + len(names)) + "|")
    for pair in pairs:
        cells = [_rates(pair[name]["rates"]) for name in names]
        lines.append(f"| {pair['seed']} | " + " | ".join(cells) + " |")
    lines.append("")
    for name, ratio in result["ratios"].items():
        words, most = TARGETS[name]
        spread = f"{ratio['min']:.2f} to {ratio['max']:.2f}"
        lines.append(f"- {words}: {ratio['median']:.2f} ({spread}; asked: at most {most:g})")
    loads = [pair["load"] for pair in pairs]
    lines.append(
        f"- {result['processor']}, {result['cores']} cores, {len(pairs)} pairs, load before them "
        f"{min(loads):.1f} to {max(loads):.1f}; commit {result['commit'][:7]}, "
        f"baseline {result['against'] or '(none)'}"
    )
    return "\n".join(lines)


# A stage that another commit calls otherwise.
_EARLIER = {"base": "pretrain"}


def _median(pairs: list[dict[str, Any]], name: str, stage: str) -> str:
    runs = [pair[name]["stages"] for pair in pairs]
    values = [stages.get(stage, stages.get(_EARLIER.get(stage, ""))) for stages in runs]
    known = [value["seconds"] for value in values if value is not None]
    return f"{statistics.median(known):.1f}" if known else ""


def _rates(rates: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(
        f"{name} {value['rate']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
        for name, value in rates.items()
    )


def main(arguments: list[str] | None = None, changes: Mapping[str, Any] | None = None) -> None:
    """Measure and print Markdown."""
    head, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.main_job",
        description=head,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--against", metavar="COMMIT", help="measure the build of this commit as well")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="measure beside N programs as well")
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--seed", type=int, default=17, help="of the first pair (default: 17)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the figures: benchmarks/results")
    options = parser.parse_args(arguments)
    about = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "instructions": instructions(),
        "cores": cores(),
        "command": shown(options),
        "commit": snapshot(),
        "against": options.against,
        "busy": options.busy,
    }
    result: dict[str, Any] = {}
    for pairs in measure(options, changes or {}):
        result = about | {"ratios": ratios(pairs), "pairs": pairs}
        if options.out:  # after each pair: it takes minutes, and a run that ends early keeps what it has
            keep("busy" if options.busy else "main-job", result, options.out)
    print(table(result))


def shown(options: argparse.Namespace) -> str:
    """The command that repeats a measurement."""
    words = ["python -m benchmarks.main_job"]
    words += [f"--against {options.against}"] if options.against else []
    words += [f"--busy {options.busy}"] if options.busy else []
    return " ".join([*words, f"--pairs {options.pairs} --seed {options.seed}"])


if __name__ == "__main__":
    main()
