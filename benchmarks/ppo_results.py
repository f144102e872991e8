"""What the PPO benchmark writes and prints: tables of its results, and what it ran on."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import cores, file_name, processor
from benchmarks.ppo_run import PHASES

ROOT = Path(__file__).resolve().parents[1]
GB = 1e9


def table(written: dict[str, Any]) -> str:
    """The result as text: two lines a case, medians of the runs."""
    lines = [
        f"{'case':29} {'who':6} {'episodes/s':>10} {'peak MB':>8} {'+models':>8} {'tokens':>6}"
        f" {'generate':>9} {'score':>6} {'optimise':>9} {'other':>6} {'of fp32':>8} {'of bf16':>8}"
    ]
    for case in written["cases"]:
        baseline = written.get("baseline", "trl")
        for who in (baseline, "ours"):
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
                f"{case['name'] if who == baseline else '':29} {who:6}"
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
            f"{'':29} ours / {baseline}: episodes/s {speed}, peak memory {memory}, {len(case['runs'])} pairs"
        )
    return "\n".join(lines)


def growth_table(written: dict[str, Any]) -> str:
    """The result of `growth` as text.

    `us/token` is the time of an update over the tokens of its episodes, prompts and responses, each of which
    goes through the networks some thirty times; `ps/param` is that time over the parameters of the policy.
    """
    head = f"{'':10} {'':>8} {'episodes/s':>10} {'s/update':>9} {'us/token':>9} {'ps/param':>9}"
    lines = [f"{head} {'peak MB':>8} {'+models':>8}"]
    for name, rows in written["growth"].items():
        for row in rows:
            tokens = row["prompt_tokens"] + row["mean_response_length"]
            token = 1 / row["episodes_per_s"] / tokens
            lines.append(
                f"{name:10} {row[name]:>8} {row['episodes_per_s']:10.3g}"
                f" {row['seconds'] / len(row['seconds_by_update']):9.3g} {1e6 * token:9.3g}"
                f" {1e12 * token / row['params']:9.3g} {row['peak_memory'] / 2**20:8.0f}"
                f" {row['peak_memory_above_models'] / 2**20:8.0f}"
            )
    return "\n".join(lines)


def stages_table(written: dict[str, Any]) -> str:
    """The result of the stages as text: a line a phase, and what the logits whole take."""
    lines = []
    for case in written["stages"]:
        phases = case["phases"]
        lines.append(
            f"{case['name']}: {phases['base']['parameters'] / 1e6:.0f} M parameters; prompts of "
            f"{case['prompt']} tokens, answers of {case['response']}, {case['episodes']} episodes\n"
            f"{'':14} {'tokens/s':>9} {'seconds':>8} {'peak GB':>8}"
        )
        for name in ("sft", "reward", "ppo"):
            phase = phases[name]
            peak = phase["peak_memory"] / GB
            lines.append(
                f"{name:14} {phase['tokens'] / phase['seconds']:9.3g} {phase['seconds']:8.1f} {peak:8.2f}"
            )
        for name, part in phases["ppo"]["phases"].items():
            lines.append(f"  {name:12} {part['tokens'] / part['seconds']:9.3g} {part['seconds']:8.1f}")
        logits = phases["logits"]
        lines.append(
            f"The logits of a micro-batch of {logits['tokens']} tokens: in parts the process needs "
            f"{logits['parts']['peak_memory'] / GB:.2f} GB, with them whole "
            f"{logits['whole']['peak_memory'] / GB:.2f} GB; a copy of them is "
            f"{logits['bytes_of_one_copy'] / GB:.2f} GB."
        )
    return "\n".join(lines)


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
        "command": command("benchmarks.ppo", sys.argv[1:], options.trl),
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
        "settings": {
            name: getattr(options, name)
            for name in ("seed", "updates", "repeats", "quick", "set")
            if name in options
        },
    }


def result_file(options: argparse.Namespace) -> Path:
    """Where the result goes: kind, date and machine in its name."""
    what = "-".join(options.staged) if options.staged else options.what
    what += "-against" if options.against else ""
    kind = "ppo" + (f"-{what}" if what != "compare" else "") + ("-quick" if options.quick else "")
    on_gpu = options.device == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else processor()
    date = datetime.date.today().isoformat()
    return Path(options.out) / file_name(kind, date, name, None if on_gpu else cores())


def command(module: str, arguments: list[str], hidden: str | None = None) -> str:
    """The command line of a measurement, without the places of this machine in it."""
    words = ["DIR" if hidden and word == hidden else word for word in arguments]
    if "--out" in words:
        at = words.index("--out")
        del words[at : at + 2]
    return " ".join([f"python -m {module}", *words])
