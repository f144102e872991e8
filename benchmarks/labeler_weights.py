"""Do labeler weights make a better reward model where many labelers are careless?

    python -m benchmarks.labeler_weights [--seeds 5] [--overlap 2] [--prompts 1300]

Works on the built-in task, after `dvc repro sft`. For each seed the simulated labelers (30 % experts, 55 %
novices, 15 % spammers) rank new samples, and a reward model is trained with each kind of weight on the same
rankings. The hidden gold preference says which of two outputs for a test post is better. Prints the gold
accuracy of each and what weights add; writes benchmarks/results/labeler-weights-<date>-<machine>.json.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import platform
import tempfile
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from rlhf.compute import deterministic
from rlhf.data.contracts import DEMONSTRATION
from rlhf.data.errors import DataError
from rlhf.data.files import write_json
from rlhf.data.table import read_table
from rlhf.models.policy import load_policy
from rlhf.models.reward_model import RewardModel, score
from rlhf.models.sampling import generate
from rlhf.models.template import as_row
from rlhf.settings import Settings, load_settings
from rlhf.world.facts import read_facts
from rlhf.world.gold import Quality, quality
from tasks.collect import simulated
from tasks.reward import fit, weights_of
from tasks.runtime.errors import one_line_errors
from tasks.runtime.stage import Stage

METHODS = ("none", "dawid-skene", "bradley-terry")
GROUPS = {"expert": 0.3, "novice": 0.55, "spammer": 0.15}
# Outputs whose weighted coverage differs by less are told apart by what is wrong in them.
LIKE_COVERAGE = 0.05

Judged = list[tuple[str, list[str], list[Quality]]]


def judged_posts(prompts: int, samples: int = 3) -> Judged:
    """Test posts, each with its reference, samples of the SFT policy, and their gold qualities."""
    demonstrations = read_table("data/prepared/demonstrations.parquet", DEMONSTRATION)
    rows = [row for row in demonstrations if row["split"] == "test"][:prompts]
    facts = read_facts("data/gold/facts.parquet")
    if not rows or not facts:
        raise DataError("the gold preference is that of the built-in task: set ingest.source: builtin")
    outputs = generate(
        load_policy("models/sft"),
        [row for row in rows for _ in range(samples)],
        temperature=0.9,
        max_new_tokens=48,
        seed=0,
    )
    judged: Judged = []
    for i, row in enumerate(rows):
        shown = [row["completion"], *outputs[i * samples : (i + 1) * samples]]
        texts = list(dict.fromkeys(" " + text.strip() for text in shown if text.strip()))
        judged.append((row["prompt"], texts, [quality(facts[row["prompt"]], text) for text in texts]))
    return judged


def gold_accuracy(reward: RewardModel, judged: Judged) -> dict[str, float]:
    """Share of pairs in which the model prefers the better output: all pairs, and those of like coverage."""
    flat = [(as_row(prompt), text) for prompt, texts, _ in judged for text in texts]
    scores = iter(score(reward, [row for row, _ in flat], [text for _, text in flat]))
    everything, like = [], []
    for _, texts, qualities in judged:
        own = [next(scores) for _ in texts]
        for i, j in combinations(range(len(texts)), 2):
            a, b = qualities[i], qualities[j]
            if a.score != b.score:
                everything.append((own[i] > own[j]) == (a.score > b.score))
            if a.wrong != b.wrong and abs(a.coverage - b.coverage) < LIKE_COVERAGE:
                like.append((own[i] > own[j]) == (a.wrong < b.wrong))
    return {
        "accuracy": float(np.mean(everything)),
        "pairs": len(everything),
        "fewer_wrong_facts": float(np.mean(like)),
        "like_coverage_pairs": len(like),
    }


def one_seed(settings: Settings, judged: Judged) -> dict[str, Any]:
    """Gold accuracy by kind of weight, on the same rankings."""
    demonstrations = read_table("data/prepared/demonstrations.parquet", DEMONSTRATION)
    deterministic(settings.seed, settings.threads)
    rows = simulated(Stage("collect", settings, key="", run_id=""))
    accuracy: dict[str, Any] = {}
    for method in METHODS:
        chosen = settings.reward.model_copy(update={"labeler_weights": method})
        with tempfile.TemporaryDirectory() as folder:
            stage = _Unlogged("reward", settings.model_copy(update={"reward": chosen}), folder, run_id="")
            reward, _ = fit(stage, "train", rows, demonstrations)
            weights = weights_of(stage, [row for row in rows if row["split"] == "train"])
        accuracy[method] = gold_accuracy(reward, judged) | {"weights": weights}
    return accuracy


class _Unlogged(Stage):
    """A stage without tracking; its key is its checkpoint folder."""

    @property
    def checkpoints(self) -> Path:
        return Path(self.key)

    def log_curve(self, values: dict[str, float], step: int) -> None:
        pass


def gains(runs: list[dict[str, Any]], method: str, figure: str) -> dict[str, Any]:
    """What a method adds to no weights: mean over seeds, and 95 % t-interval of the paired differences."""
    by_seed = [run[method][figure] - run["none"][figure] for run in runs]
    mean, n = float(np.mean(by_seed)), len(by_seed)
    half = float(t.ppf(0.975, n - 1) * np.std(by_seed, ddof=1) / np.sqrt(n)) if n > 1 else None
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "low": low, "high": high, "by_seed": by_seed}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.labeler_weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=5, help="labelings and reward models, one a seed")
    parser.add_argument("--overlap", type=int, default=2, help="labelers a prompt of the shared pool")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--prompts", type=int, help="prompts to rank outputs for (collect.prompts)")
    parser.add_argument("--posts", type=int, default=400, help="test posts to judge on")
    parser.add_argument("--out", default="benchmarks/results", help="folder for the result")
    chosen = parser.parse_args()
    with one_line_errors():
        base = load_settings()
        prompts = chosen.prompts or base.collect.prompts
        update = {"groups": GROUPS, "overlap": chosen.overlap, "prompts": prompts}
        deterministic(0, chosen.threads)
        judged = judged_posts(chosen.posts)
        runs = []
        for seed in range(base.seed, base.seed + chosen.seeds):
            collect = base.collect.model_copy(update=update)
            changes = {"seed": seed, "threads": chosen.threads, "collect": collect}
            runs.append({"seed": seed} | one_seed(base.model_copy(update=changes), judged))
            line = "  ".join(f"{method} {runs[-1][method]['accuracy']:.3f}" for method in METHODS)
            print(f"seed {seed}: {line}", flush=True)
        result: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": platform.processor() or platform.machine(),
            "collect": collect.model_dump(),
            "reward": base.reward.model_dump(),
            "runs": runs,
        }
        for figure in ("accuracy", "fewer_wrong_facts"):
            result[figure] = {method: gains(runs, method, figure) for method in METHODS[1:]}
            for method, gain in result[figure].items():
                interval = "" if gain["low"] is None else f" ({gain['low']:+.3f} to {gain['high']:+.3f})"
                print(f"{figure}: {method} adds {gain['mean']:+.3f}{interval}, {chosen.seeds} seeds")
        write_json(f"{chosen.out}/labeler-weights-{result['date']}-{platform.machine()}.json", result)


if __name__ == "__main__":
    main()
