"""Tokens a second of our sampling against transformers' `generate`: `python -m benchmarks.generation`.

512 responses of up to 128 tokens from a random Llama (`benchmarks.ppo_models`), once to 512 prompts of 16 to
256 tokens and once to 128 of them four times each. `generate` gets them in batches in the order in which they
come, by the batch size that the first pair finds fastest here; ours is `rlhf.models.sampling.generate`, as
the stages call it. Both sample at the same temperature with a cache, in one process, in turns; a ratio is
taken within a pair. Responses differ, for the noise does: tokens are counted as sampled. Prints Markdown;
with --out it also writes generation-<date>-<machine>.json there.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import cores, keep, processor
from benchmarks.ppo_models import SIZES, TEMPERATURE, draw_prompts, policy_of, tokenizer_of
from benchmarks.ppo_results import command, machine
from rlhf.models.policy import Policy
from rlhf.models.sampling import generate

BATCHES = (32, 128)  # of `generate`
TARGET = 2.0  # tokens a second, times those of `generate`
CASES = {"one response a prompt": 1, "four responses a prompt": 4}


def theirs(policy: Policy, prompts: list[str], longest: int, batch: int, seed: int) -> int:
    """Sample by `model.generate` in batches; returns the sampled tokens."""
    torch.manual_seed(seed)
    tokenizer, model, tokens = policy.tokenizer, policy.model, 0
    for start in range(0, len(prompts), batch):
        inputs = tokenizer(prompts[start : start + batch], return_tensors="pt", padding=True)
        out = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=0,
            max_new_tokens=longest,
            pad_token_id=policy.pad,
        )
        tokens += int((out[:, inputs["input_ids"].shape[1] :] != policy.pad).sum())
    return tokens


def ours(policy: Policy, prompts: list[str], longest: int, seed: int) -> int:
    """Sample as the stages do; returns the sampled tokens, of which a word is one and the end another."""
    rows = [{"prompt": prompt, "messages": None} for prompt in prompts]
    texts = generate(policy, rows, temperature=TEMPERATURE, max_new_tokens=longest, seed=seed)
    return sum(min(longest, len(text.split()) + 1) for text in texts)


def timed(sampled: Any, *arguments: Any) -> dict[str, float]:
    """Run it; seconds, processor seconds and tokens."""
    began, processor_began = time.perf_counter(), time.process_time()
    tokens = sampled(*arguments)
    seconds, spent = time.perf_counter() - began, time.process_time() - processor_began
    return {
        "tokens": tokens,
        "seconds": seconds,
        "processor_seconds": spent,
        "tokens_per_s": tokens / seconds,
    }


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The pairs of each case."""
    policy = Policy(policy_of(options.size, options.seed), tokenizer_of(SIZES[options.size][-1]))
    cases = []
    for name, copies in CASES.items():
        different = draw_prompts(options.size, options.responses // copies, 16, 256, options.seed)
        prompts = [prompt for prompt in different for _ in range(copies)]
        runs: list[dict[str, Any]] = []
        batches = BATCHES
        for seed in range(options.pairs):
            by_batch = {
                batch: timed(theirs, policy, prompts, options.longest, batch, seed) for batch in batches
            }
            run = {
                "transformers": {str(batch): figures for batch, figures in by_batch.items()},
                "ours": timed(ours, policy, prompts, options.longest, seed),
            }
            batches = (max(by_batch, key=lambda batch: by_batch[batch]["tokens_per_s"]),)
            run["ratio"] = run["ours"]["tokens_per_s"] / by_batch[batches[0]]["tokens_per_s"]
            runs.append(run)
            print(f"  {seed + 1}/{options.pairs} {name}: {run['ratio']:.2f}", file=sys.stderr, flush=True)
        ratios = [run["ratio"] for run in runs]
        spread = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        cases.append({"name": name, "batch": batches[0], "ratio": spread, "runs": runs})
    return cases


def table(written: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "| case | `generate`, batches of | tokens/s | ours, tokens/s | ratio (least to most) |",
        "|---|---|---|---|---|",
    ]
    for case in written["cases"]:
        best = str(case["batch"])
        theirs = statistics.median(run["transformers"][best]["tokens_per_s"] for run in case["runs"])
        rate = statistics.median(run["ours"]["tokens_per_s"] for run in case["runs"])
        ratio = "{median:.2f} ({min:.2f} to {max:.2f})".format(**case["ratio"])
        lines.append(f"| {case['name']} | {best} | {theirs:,.0f} | {rate:,.0f} | {ratio} |")
    asked = f"asked: at least {TARGET:g}"
    return "\n".join([*lines, "", f"{len(written['cases'][0]['runs'])} pairs; {asked}; {processor()}"])


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation", description=__doc__)
    parser.add_argument("--size", choices=[*SIZES], default="37.8m", help="of the model (default: 37.8m)")
    parser.add_argument("--responses", type=int, default=512, metavar="N", help="default: 512")
    parser.add_argument("--longest", type=int, default=128, metavar="N", help="tokens of a response, at most")
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--threads", type=int, default=cores(), help="default: the cores allowed here")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the figures: benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = measure(options)
    about = machine(argparse.Namespace(**vars(options), device="cpu", trl=None, set={}, updates=0))
    about["command"] = command("benchmarks.generation", sys.argv[1:])
    about["settings"] = {name: vars(options)[name] for name in ("size", "responses", "longest", "pairs")}
    written = {**about, "cases": cases}
    print(table(written))
    if options.out:
        keep("generation", written, options.out)


if __name__ == "__main__":
    main()
