"""PPO against TRL 1.12's `PPOTrainer`, on the same models, prompts, seeds and settings of this machine.

    python -m benchmarks.ppo --trl DIR                    # every case, five paired runs: hours on two cores
    python -m benchmarks.ppo --cases '37.8m-mixed-*'      # some of them
    python -m benchmarks.ppo --quick --size tiny          # does it run at all?
    python -m benchmarks.ppo --device cuda --size 1b      # a GPU, bf16 weights
    python -m benchmarks.ppo growth                       # how our cost grows; needs no TRL

TRL dropped its PPO after 1.12, so the baseline lives in a folder apart (`--trl`, or the variable TRL112):

    pip install --target DIR --no-deps trl==1.12.0

Each run is a process of its own, one after another. A pair is TRL's run and ours right after it; a ratio is
ours over TRL's within a pair; each pair has the next seed. Both take 4 epochs with one optimiser step each,
a batch of 64 episodes, temperature 0.7 and responses of at most 48 tokens, and the first update of each run
is not counted.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import dataclasses
import datetime
import fnmatch
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.machine import cores, processor
from benchmarks.ppo_models import SIZES, draw_prompts, write_models, write_prompts
from benchmarks.ppo_run import PHASES, Spec, write_spec
from rlhf.data.errors import DataError
from rlhf.data.files import write_json
from rlhf.rl.trainer import PPOConfig

ROOT = Path(__file__).resolve().parents[1]
HOW_TO_GET_TRL = "get it with `pip install --target DIR --no-deps trl==1.12.0` and give --trl DIR (or TRL112)"
LENGTHS = {"fixed": (96, 96), "mixed": (16, 256)}  # prompt tokens, shortest and longest
VARIANTS = ("separate-critic", "shared-lora")  # ours; TRL's side always has a separate critic
BATCH, PROMPTS = 64, 512
BATCHES = {"37.8m": 16}  # where an update of 64 would take TRL minutes
# What grows in `growth`, around a common middle.
MIDDLE: dict[str, Any] = {"size": "4.2m", "batch": BATCH, "prompt": 96, "response": 48, "prompts": 512}
GROWTH: dict[str, list[Any]] = {
    "size": ["1.3m", "4.2m", "14m", "37.8m"],
    "batch": [16, 64, 256],
    "prompt": [32, 96, 192, 384],
    "response": [16, 48, 128],
    "prompts": [512, 8192, 131072],
}


# ---- one run ----


class Bench:
    """Starts runs on models that it writes once into a temporary folder."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.params: dict[str, int] = {}

    def run(self, spec: Spec) -> dict[str, Any]:
        """Run a spec in a process of its own.

        Raises:
            DataError: it failed; the last line it wrote.
        """
        request, answer = self.folder / "spec.json", self.folder / "result.json"
        write_spec(spec, request)
        answer.unlink(missing_ok=True)
        trl = [str(Path(self.options.trl).resolve())] if spec.who == "trl" else []
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.ppo_run", str(request), str(answer)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([*trl, str(ROOT)]),
                "OMP_NUM_THREADS": str(spec.threads),
                "TRL_EXPERIMENTAL_SILENCE": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "HF_HUB_OFFLINE": "1",
            },
            capture_output=True,
            text=True,
        )
        if done.returncode or not answer.exists():
            last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
            raise DataError(f"the {spec.who} run failed: {last}")
        return json.loads(answer.read_text())

    def spec(self, size: str, prompt: tuple[int, int], prompts: int = PROMPTS, **more: Any) -> Spec:
        """A spec whose models and prompts are there."""
        options, models = self.options, self.folder / size
        if size not in self.params:
            dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
            self.params[size] = write_models(models, size, options.seed, dtype)
        fields: dict[str, Any] = {
            "who": "ours",
            "batch": BATCHES.get(size, BATCH),
            "seed": options.seed,
        } | more
        # Never a whole pass: TRL would step at each micro-batch of the last batch of its prompts.
        prompts = max(prompts, fields["batch"] * (options.updates + 2))
        texts = self.folder / f"{size}-{prompt[0]}-{prompt[1]}-{prompts}.json"
        if not texts.exists():
            write_prompts(texts, draw_prompts(size, prompts, *prompt, options.seed))
        return Spec(
            models=str(models),
            prompts=str(texts),
            size=size,
            device=options.device,
            updates=options.updates,
            threads=options.threads,
            trl_micro_batch=options.trl_micro_batch,
            trl_rollout_batch=options.trl_rollout_batch,
            options=options.set,
            **fields,
        )


# ---- against TRL ----


def compare(bench: Bench, cases: list[tuple[str, str, str]], file: Path) -> dict[str, Any]:
    """Run all pairs, writing `file` after each round so that a broken run keeps what it has."""
    results: dict[tuple[str, str, str], list[dict[str, Any]]] = {case: [] for case in cases}
    written: dict[str, Any] = {}
    for repeat in range(bench.options.repeats):
        for size, lengths in dict.fromkeys(case[:2] for case in cases):
            # From one seed the two draw responses of other lengths; over several it evens out.
            seed = bench.options.seed + repeat
            spec = bench.spec(size, LENGTHS[lengths], who="trl", seed=seed)
            gemm = bench.run(Spec("gemm", device=spec.device, threads=spec.threads))
            trl = _with_share(bench.run(spec), gemm)
            for case in cases:
                if case[:2] != (size, lengths):
                    continue
                ours = _with_share(
                    bench.run(bench.spec(size, LENGTHS[lengths], variant=case[2], seed=seed)), gemm
                )
                results[case].append({"trl": trl, "ours": ours, "gemm_operations_per_s": gemm})
                print(f"  {repeat + 1}/{bench.options.repeats} {'-'.join(case)}", file=sys.stderr, flush=True)
        written = {
            **machine(bench.options),
            "cases": [
                {
                    "name": "-".join(case),
                    "size": case[0],
                    "params": bench.params[case[0]],
                    "lengths": case[1],
                    "variant": case[2],
                    **ratios(runs),
                    "runs": runs,
                }
                for case, runs in results.items()
            ],
        }
        write_json(file, written)
    return written


def ratios(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Ours over TRL's within each pair: median, least and most."""
    ratio = {}
    for name, figure in (("episodes_per_s", "episodes_per_s"), ("peak_memory", "peak_memory")):
        values = [run["ours"][figure] / run["trl"][figure] for run in runs]
        ratio[f"ratio_{name}"] = {
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
        }
    return ratio


def _with_share(run: dict[str, Any], gemm: dict[str, float]) -> dict[str, Any]:
    rate = run.pop("operations_per_s")
    return {
        **run,
        "share_of_gemm_peak": {name: rate / gemm[name] for name in ("float32", "bfloat16")},
    }


def table(written: dict[str, Any]) -> str:
    """The result as text: two lines a case, medians of the runs."""
    lines = [
        f"{'case':29} {'who':5} {'episodes/s':>10} {'peak MB':>8} {'+models':>8} {'tokens':>6}"
        f" {'generate':>9} {'score':>6} {'optimise':>9} {'other':>6} {'of fp32':>8} {'of bf16':>8}"
    ]
    for case in written["cases"]:
        for who in ("trl", "ours"):
            runs = [run[who] for run in case["runs"]]

            def middle(get: Any, runs: Any = runs) -> float:
                return statistics.median(get(run) for run in runs)

            phases = [
                middle(lambda run, name=name: run["seconds_by_phase"][name] / run["seconds"])
                for name in (*PHASES, "other")
            ]
            shares = [
                middle(lambda run, name=name: run["share_of_gemm_peak"][name])
                for name in ("float32", "bfloat16")
            ]
            lines.append(
                f"{case['name'] if who == 'trl' else '':29} {who:5}"
                f" {middle(lambda run: run['episodes_per_s']):10.3g}"
                f" {middle(lambda run: run['peak_memory']) / 2**20:8.0f}"
                f" {middle(lambda run: run['peak_memory_above_models']) / 2**20:8.0f}"
                f" {middle(lambda run: run['mean_response_length']):6.1f}"
                f" {phases[0]:9.0%} {phases[1]:6.0%} {phases[2]:9.0%} {phases[3]:6.0%}"
                f" {shares[0]:8.0%} {shares[1]:8.0%}"
            )
        speed, memory = (
            "{median:.2f} ({min:.2f} to {max:.2f})".format(**case[name])
            for name in ("ratio_episodes_per_s", "ratio_peak_memory")
        )
        lines.append(
            f"{'':29} ours / trl: episodes/s {speed}, peak memory {memory}, {len(case['runs'])} pairs"
        )
    return "\n".join(lines)


# ---- how cost grows ----


def growth(bench: Bench, file: Path) -> dict[str, Any]:
    """Our trainer alone, one thing growing at a time."""
    measured: dict[str, list[dict[str, Any]]] = {}
    middle = MIDDLE | ({"size": bench.options.size[0]} if bench.options.size else {})
    for name, values in GROWTH.items():
        values = [middle["size"]] if name == "size" and bench.options.size else values
        for value in values[:2] if bench.options.quick else values:
            point = middle | {name: value}
            run = bench.run(
                bench.spec(
                    point["size"],
                    (point["prompt"], point["prompt"]),
                    point["prompts"],
                    batch=point["batch"],
                    response=point["response"],
                )
            )
            measured.setdefault(name, []).append({name: value, "params": bench.params[point["size"]], **run})
            print(f"  {name} {value}", file=sys.stderr, flush=True)
    written = {**machine(bench.options), "middle": middle, "growth": measured}
    write_json(file, written)
    return written


def growth_table(written: dict[str, Any]) -> str:
    """The result of `growth` as text."""
    lines = [f"{'':10} {'':>8} {'episodes/s':>10} {'s/update':>9} {'peak MB':>8} {'+models':>8}"]
    for name, rows in written["growth"].items():
        lines += [
            f"{name:10} {row[name]:>8} {row['episodes_per_s']:10.3g}"
            f" {row['seconds'] / len(row['seconds_by_update']):9.3g} {row['peak_memory'] / 2**20:8.0f}"
            f" {row['peak_memory_above_models'] / 2**20:8.0f}"
            for row in rows
        ]
    return "\n".join(lines)


# ---- the machine ----


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Everything about where and how that a reader needs to judge the figures."""
    flags: set[str] = set()
    if Path("/proc/cpuinfo").exists():
        match = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        flags = set(match[1].split()) if match else set()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip() or None,
        "command": " ".join(
            ["python -m benchmarks.ppo", *("DIR" if w == options.trl else w for w in sys.argv[1:])]
        ),
        "processor": processor(),
        "flags": sorted(f for f in flags if f.startswith(("amx", "avx2", "avx512_bf16", "avx512f"))),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "cores": cores(),
        "threads": options.threads,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "transformers", "accelerate")
        }
        | {"python": platform.python_version()},
        "settings": {name: getattr(options, name) for name in ("seed", "updates", "repeats", "quick", "set")},
    }


def result_file(options: argparse.Namespace) -> Path:
    """Where the result goes: kind, date and machine in its name."""
    name = torch.cuda.get_device_name() if options.device == "cuda" else processor()
    name = re.sub(r"\((r|tm)\)|processor|cpu|@.*", "", name.lower())
    name = "-".join(re.findall(r"[a-z0-9.]+", name)) or "unknown"
    name += "" if options.device == "cuda" else f"-{cores()}-cores"
    kind = "ppo" + ("-growth" if options.what == "growth" else "") + ("-quick" if options.quick else "")
    return Path(options.out) / f"{kind}-{datetime.date.today().isoformat()}-{name}.json"


# ---- the command ----


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    head, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ppo",
        description=head,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=("compare", "growth"), default="compare")
    parser.add_argument("--trl", default=os.environ.get("TRL112"), metavar="DIR", help="folder with TRL 1.12")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--size", nargs="+", choices=SIZES, help="models (default: 1.3m and 37.8m, on cuda 1b; growth: 4.2m)"
    )
    parser.add_argument(
        "--cases", nargs="+", default=["*"], metavar="GLOB", help="of <size>-<lengths>-<variant>"
    )
    parser.add_argument("--repeats", type=int, default=5, help="paired runs of each case (default 5)")
    parser.add_argument("--updates", type=int, default=1, help="timed updates a run (default 1)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=cores(), help="default: the cores allowed here")
    parser.add_argument("--quick", action="store_true", help="one pair of one update each: no result to keep")
    parser.add_argument("--out", default="benchmarks/results", metavar="DIR")
    parser.add_argument("--trl-micro-batch", type=int, default=16, help="episodes a pass of TRL's")
    parser.add_argument("--trl-rollout-batch", type=int, default=64, help="episodes it samples at once")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of our PPOConfig, such as micro_batch_tokens=2048: for before and after",
    )
    options = parser.parse_args(arguments)
    pairs = [text.partition("=") for text in options.set]
    options.set = {name: yaml.safe_load(value) for name, _, value in pairs}
    fields = {field.name for field in dataclasses.fields(PPOConfig)}
    for name, equals, _ in pairs:
        if name not in fields or not equals:
            parser.error(f"--set wants NAME=VALUE with a field of PPOConfig; {name!r} is none")
    for name in ("repeats", "updates", "threads", "trl_micro_batch", "trl_rollout_batch"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least 1")
    if BATCH % options.trl_micro_batch:
        parser.error(f"--trl-micro-batch {options.trl_micro_batch} does not divide the batch of {BATCH}")
    if options.quick:
        options.repeats = options.updates = 1
    return options


def main(options: argparse.Namespace) -> None:
    """Measure, print the table, write the result.

    Raises:
        DataError: no TRL 1.12, no such case, no GPU, a run that failed.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise DataError("--device cuda: torch sees no GPU here; leave the option out")
    file = result_file(options)
    with tempfile.TemporaryDirectory(prefix="ppo-bench-") as folder:
        bench = Bench(Path(folder), options)
        if options.what == "growth":
            print(growth_table(growth(bench, file)))
        else:
            sizes = options.size or (["1b"] if options.device == "cuda" else ["1.3m", "37.8m"])
            every = [
                (size, lengths, variant) for size in sizes for lengths in LENGTHS for variant in VARIANTS
            ]
            cases = [c for c in every if any(fnmatch.fnmatch("-".join(c), glob) for glob in options.cases)]
            if not cases:
                known = ", ".join("-".join(case) for case in every)
                raise DataError(f"--cases {' '.join(options.cases)} names no case; there are {known}")
            if not options.trl:
                raise DataError(f"the baseline is missing: {HOW_TO_GET_TRL}")
            if not (Path(options.trl) / "trl/experimental/ppo/ppo_trainer.py").exists():
                raise DataError(f"{options.trl}: no TRL 1.12 here; {HOW_TO_GET_TRL}")
            print(table(compare(bench, cases, file)))
    print(f"written to {file}")


if __name__ == "__main__":
    try:
        main(parse())
    except DataError as error:
        sys.exit(f"error: {error}")
