"""Is reward hacking caught, and a healthy run left alone?

    python -m benchmarks.reward_hacking FOLDER... [--set collect.prompts=1000]

Each folder is a checkout in which `dvc repro sft` ran, with a seed of its own in params.yaml. On its SFT
policy two runs go from the rankings to the end of PPO: the recipe `reward-hacking`, and a healthy one by
params.yaml. Simulated experts judge the evaluation snapshots of both while PPO runs (ppo.judge), and may stop
it. The hidden gold preference then judges every snapshot (200 validation prompts). Prints a line a run as it
ends; writes benchmarks/results/reward-hacking-<date>-<machine>.json after each.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from flows.params import parse_changes, plan
from rlhf.data.contracts import SNAPSHOT
from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json
from rlhf.data.table import read_table
from rlhf.measures.snapshot_judgments import judge_snapshots
from rlhf.settings import Settings, load_settings
from rlhf.world.judges import gold_judge
from tasks import collect, ppo, reward
from tasks.runtime.errors import one_line_errors
from tasks.runtime.stage import Stage

RUNS = ("hacking", "healthy")
HEAD = (
    f"{'seed':>4}  {'run':8} {'seconds':>7} {'stopped':>7} {'kept':>4} {'last':>4}  gold: start, kept, last"
)


class Unlogged(Stage):
    """A stage without tracking, whose checkpoints are in its folder."""

    @property
    def checkpoints(self) -> Path:
        return Path("checkpoints", self.name)

    def log_curve(self, *_: Any, **__: Any) -> None:
        pass

    log_figures = log_samples = log_dataset = log_artifact = log_curve


@contextmanager
def run_folder(base: Path) -> Iterator[Path]:
    """Work in a temporary folder with the data and the SFT policy of a checkout."""
    before = Path.cwd()
    if not (base / "models/sft/config.json").exists():
        raise DataError(f"{base}: no SFT policy; run `dvc repro sft` there")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("data/gold", "data/prepared", "models/sft"):
            shutil.copytree(base / part, folder / part)
        (folder / "plots").mkdir()
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def one_run(settings: Settings) -> dict[str, Any]:
    """Run from the rankings to the end of PPO in the working directory; returns what the judges say."""
    start = time.monotonic()
    with redirect_stdout(sys.stderr):
        for name, stage in (("collect", collect), ("reward", reward), ("ppo", ppo)):
            stage.main(Unlogged(name, settings, key="", run_id=""))
    snapshots = read_table("data/snapshots/snapshots.parquet", SNAPSHOT)
    judge = gold_judge("gold", "data/gold/facts.parquet")
    evaluate = settings.evaluate
    return {
        "seconds": round(time.monotonic() - start),
        "held_out": read_json("data/snapshots/held-out.json"),
        "gold": judge_snapshots(
            judge, snapshots, evaluate.confidence, evaluate.hacking_tolerance, settings.seed
        ),
    }


def line(run: dict[str, Any]) -> str:
    """A run in one line."""
    snapshots = {row["update"]: row for row in run["gold"]["looks"]}
    kept, last, stopped = run["held_out"]["kept"], max(snapshots), run["held_out"]["stopped"]
    rates = "  ".join(
        f"{snapshots[at]['rate']:.3f} ({snapshots[at]['low']:.3f}-{snapshots[at]['high']:.3f})"
        for at in (0, kept, last)
    )
    flag = "  gold sees hacking" if run["gold"]["hacking"]["found"] else ""
    stop = "-" if stopped is None else str(stopped)
    return f"{run['seed']:4}  {run['run']:8} {run['seconds']:7} {stop:>7} {kept:4} {last:4}  {rates}{flag}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reward_hacking",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, help="checkouts with an SFT policy")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS, help="which runs (both)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change both runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the result")
    chosen = parser.parse_args()
    date, rows = time.strftime("%Y-%m-%d"), []
    out = (chosen.out / f"reward-hacking-{date}-{platform.machine()}.json").resolve()
    with one_line_errors():
        print(HEAD, flush=True)
        for base in map(Path.resolve, chosen.folders):
            seed = load_settings(base / "params.yaml").seed
            changes = {"seed": seed, "threads": 1, "ppo.judge": "simulated"} | parse_changes(chosen.set)
            for name in chosen.runs:
                settings = plan("reward-hacking" if name == "hacking" else None, None, changes)
                with run_folder(base):
                    outcome = one_run(settings)
                params = settings.model_dump(by_alias=True)
                rows.append({"seed": seed, "run": name, "params": params} | outcome)
                print(line(rows[-1]), flush=True)
                write_json(out, {"date": date, "machine": platform.machine(), "runs": rows})


if __name__ == "__main__":
    main()
