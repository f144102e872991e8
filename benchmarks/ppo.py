"""PPO against TRL 1.12's `PPOTrainer`, on the same models, prompts, seeds and settings of this machine.

    python -m benchmarks.ppo --trl DIR                    # every case, five paired runs: hours on two cores
    python -m benchmarks.ppo --cases '37.8m-mixed-*'      # some of them
    python -m benchmarks.ppo --quick --size tiny          # does it run at all?
    python -m benchmarks.ppo --against COMMIT             # this working tree against another commit of it
    python -m benchmarks.ppo --device cuda --size 1b      # a GPU, bf16 weights
    python -m benchmarks.ppo growth                       # how our cost grows; needs no TRL
    python -m benchmarks.ppo --size 0.6b-lora             # SFT, reward and PPO at that size; needs no TRL
    python -m benchmarks.ppo gpu --trl DIR                # all of it at 1 B on a GPU, within ten minutes

TRL dropped its PPO after 1.12, so the baseline lives in a folder apart (`--trl`, or the variable TRL112):

    pip install --target DIR --no-deps trl==1.12.0

Each run is a process of its own, one after another. A pair is the baseline's run, TRL's or that of the other
commit, and ours right after it; a ratio is ours over the baseline's within a pair; each pair has the next
seed. Both take 4 epochs with one optimiser step each, a batch of 64 episodes, temperature 0.7 and responses
of at most 48 tokens, and the first update of each run is not counted. Sizes named -lora and -full are
measured by stages instead (`benchmarks.ppo_stages`).
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import dataclasses
import fnmatch
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import ppo_stages
from benchmarks.machine import cores
from benchmarks.ppo_bench import BATCH, BATCHES, Bench
from benchmarks.ppo_models import SIZES
from benchmarks.ppo_results import growth_table, machine, result_file, stages_table, table
from benchmarks.ppo_run import Spec
from rlhf.data.errors import DataError
from rlhf.data.files import write_json
from rlhf.rl.trainer import PPOConfig

HOW_TO_GET_TRL = "get it with `pip install --target DIR --no-deps trl==1.12.0` and give --trl DIR (or TRL112)"
LENGTHS = {"fixed": (96, 96), "mixed": (16, 256)}  # prompt tokens, shortest and longest
VARIANTS = ("separate-critic", "shared-lora")  # ours; TRL's side always has a separate critic
# What grows in `growth`, around a common middle.
MIDDLE: dict[str, Any] = {"size": "4.2m", "batch": BATCH, "prompt": 96, "response": 48, "prompts": 512}
GROWTH: dict[str, list[Any]] = {
    "size": ["1.3m", "4.2m", "14m", "37.8m", "150m"],
    "vocabulary": [1024, 4096, 32768, 151936],
    "batch": [16, 64, 256],
    "prompt": [32, 96, 192, 384],
    "response": [16, 48, 128],
    "prompts": [512, 8192, 131072],
}


# ---- against TRL, or against another commit ----


def compare(bench: Bench, cases: list[tuple[str, str, str]], file: Path) -> dict[str, Any]:
    """Run all pairs, writing `file` after each round so that a broken run keeps what it has."""
    results: dict[tuple[str, str, str], list[dict[str, Any]]] = {case: [] for case in cases}
    written: dict[str, Any] = {}
    against = bench.options.against
    for repeat in range(bench.options.repeats):
        for size, lengths in dict.fromkeys(case[:2] for case in cases):
            # From one seed the two draw responses of other lengths; over several it evens out.
            seed, prompt = bench.options.seed + repeat, LENGTHS[lengths]
            gemm = bench.run(Spec("gemm", device=bench.options.device, threads=bench.options.threads))
            if not against:  # TRL's side is the same for all of our variants
                trl = _with_share(bench.run(bench.spec(size, prompt, who="trl", seed=seed)), gemm)
            for case in cases:
                if case[:2] != (size, lengths):
                    continue
                spec = bench.spec(size, prompt, variant=case[2], seed=seed)
                before = _with_share(bench.before(spec), gemm) if against else trl
                ours = _with_share(bench.run(spec), gemm)
                pair = {bench.baseline: before, "ours": ours, "gemm_operations_per_s": gemm}
                results[case].append(pair)
                print(f"  {repeat + 1}/{bench.options.repeats} {'-'.join(case)}", file=sys.stderr, flush=True)
        written = {
            **machine(bench.options),
            "baseline": bench.baseline,
            "against": against,
            "cases": [
                {
                    "name": "-".join(case),
                    "size": case[0],
                    "params": bench.params[case[0]],
                    "lengths": case[1],
                    "variant": case[2],
                    **ratios(runs, bench.baseline),
                    "runs": runs,
                }
                for case, runs in results.items()
            ],
        }
        write_json(file, written)
    return written


def ratios(runs: list[dict[str, Any]], baseline: str = "trl") -> dict[str, Any]:
    """Ours over the baseline's within each pair: median, least and most."""
    ratio = {}
    for name, figure in (("episodes_per_s", "episodes_per_s"), ("peak_memory", "peak_memory")):
        values = [run["ours"][figure] / run[baseline][figure] for run in runs]
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


# ---- SFT, reward and PPO at the size of a real model ----


def stages(bench: Bench, names: list[str], file: Path, **more: Any) -> dict[str, Any]:
    """Run the phases of each size named -lora or -full, writing `file` after each size."""
    options, written = bench.options, {**machine(bench.options), "stages": []}
    for name in names:
        size, lora = ppo_stages.STAGED[name]
        spec = ppo_stages.Spec(
            "base",
            str(bench.folder / name),
            size,
            lora,
            device=options.device,
            seed=options.seed,
            threads=options.threads,
            **(ppo_stages.ON_GPUS if options.device == "cuda" else {}),
            **more,
        )
        phases = {}
        for phase in ppo_stages.PHASE:
            phases[phase] = bench.stage(dataclasses.replace(spec, phase=phase))
            print(f"  {name} {phase}", file=sys.stderr, flush=True)
        fields = dataclasses.asdict(spec)
        for left_out in ("phase", "folder"):
            del fields[left_out]
        written["stages"].append({"name": name, **fields, "phases": phases})
        write_json(file, written)
    return written


def gpu(bench: Bench, sizes: list[str], file: Path) -> dict[str, Any]:
    """PPO against TRL, then every stage, with LoRA and in full: what fits into the minutes that there are.

    The result is written after each part; what failed or found no time is in `left_out`, and why.
    """
    bench.deadline = time.monotonic() + 60 * bench.options.minutes
    bench.options.repeats = 1
    written: dict[str, Any] = {**machine(bench.options), "cases": [], "stages": [], "left_out": {}}
    for size in sizes:
        parts: dict[str, Any] = {
            f"{size} against TRL": lambda size=size: compare(
                bench, [(size, "mixed", variant) for variant in VARIANTS], file
            )
        }
        for name, (of_size, _) in ppo_stages.STAGED.items():
            if of_size == size:
                parts[name] = lambda name=name: stages(bench, [name], file)
        for name, part in parts.items():
            try:
                result = part()
            except DataError as error:
                written["left_out"][name] = str(error)
                continue
            finally:
                write_json(file, written)
            for key in ("cases", "stages"):
                written[key] += result.get(key, [])
            write_json(file, written)
    return written


# ---- how cost grows ----


def growth(bench: Bench, file: Path) -> dict[str, Any]:
    """Our trainer alone, one thing growing at a time."""
    measured: dict[str, list[dict[str, Any]]] = {}
    middle = MIDDLE | ({"size": bench.options.size[0]} if bench.options.size else {})
    for name, values in GROWTH.items():
        values = [middle["size"]] if name == "size" and bench.options.size else values
        for value in values[:2] if bench.options.quick else values:
            point = middle | {name: value}
            size = f"{point['size']}@{value}" if name == "vocabulary" else point["size"]
            run = bench.run(
                bench.spec(
                    size,
                    (point["prompt"], point["prompt"]),
                    point["prompts"],
                    # Of large models fewer episodes; a rate counts each alike.
                    batch=BATCHES.get(size, point["batch"]) if name == "size" else point["batch"],
                    response=point["response"],
                )
            )
            measured.setdefault(name, []).append(
                {name: value, "params": bench.params[size], "prompt_tokens": point["prompt"], **run}
            )
            print(f"  {name} {value}", file=sys.stderr, flush=True)
    written = {**machine(bench.options), "middle": middle, "growth": measured}
    write_json(file, written)
    return written


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
    parser.add_argument("what", nargs="?", choices=("compare", "growth", "gpu"), default="compare")
    parser.add_argument("--trl", default=os.environ.get("TRL112"), metavar="DIR", help="folder with TRL 1.12")
    parser.add_argument(
        "--against", metavar="COMMIT", help="the baseline is this commit of the repository, in place of TRL"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cpu; of `gpu`, cuda")
    parser.add_argument(
        "--size",
        nargs="+",
        choices=[*SIZES, *ppo_stages.STAGED],
        metavar="SIZE",
        help=f"models, of {', '.join([*SIZES, *ppo_stages.STAGED])} (default: 1.3m and 37.8m, on cuda 1b; "
        "growth: 4.2m)",
    )
    parser.add_argument("--minutes", type=float, default=10, help="of `gpu`: all of its time (default 10)")
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
    options.device = options.device or ("cuda" if options.what == "gpu" else "cpu")
    staged = [size for size in options.size or () if size in ppo_stages.STAGED]
    if staged and (options.what != "compare" or staged != options.size):
        parser.error(
            f"{' '.join(staged)}: measured by stages, which goes with no other kind of size or command"
        )
    options.staged = staged
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


def check_baseline(options: argparse.Namespace) -> None:
    """Refuse a comparison without TRL 1.12."""
    if not options.trl:
        raise DataError(f"the baseline is missing: {HOW_TO_GET_TRL}")
    if not (Path(options.trl) / "trl/experimental/ppo/ppo_trainer.py").exists():
        raise DataError(f"{options.trl}: no TRL 1.12 here; {HOW_TO_GET_TRL}")


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
        sizes = options.size or (["1b"] if options.device == "cuda" else ["1.3m", "37.8m"])
        if options.what == "growth":
            print(growth_table(growth(bench, file)))
        elif options.staged:
            print(stages_table(stages(bench, options.staged, file)))
        elif options.what == "gpu":
            check_baseline(options)
            written = gpu(bench, sizes, file)
            print("\n".join([table(written), stages_table(written)]))
            for name, why in written["left_out"].items():
                print(f"left out: {name}: {why}")
        else:
            every = [
                (size, lengths, variant) for size in sizes for lengths in LENGTHS for variant in VARIANTS
            ]
            cases = [c for c in every if any(fnmatch.fnmatch("-".join(c), glob) for glob in options.cases)]
            if not cases:
                known = ", ".join("-".join(case) for case in every)
                raise DataError(f"--cases {' '.join(options.cases)} names no case; there are {known}")
            if not options.against:
                check_baseline(options)
            print(table(compare(bench, cases, file)))
    print(f"written to {file}")


if __name__ == "__main__":
    try:
        main(parse())
    except DataError as error:
        sys.exit(f"error: {error}")
