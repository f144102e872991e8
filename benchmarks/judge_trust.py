"""Are useless judges refused and good ones believed? And does a believed one ever prefer random text?

    python -m benchmarks.judge_trust FOLDER [--seeds 1 2 3 4 5] [--rankings 2 20 200 2000]

FOLDER is a checkout of the built-in task in which `dvc repro sft` ran. For every seed simulated labelers rank
samples of its SFT policy, and judges are trained as the stage `reward` trains them: on 2, 20, 200 and 2,000
rankings, each with the references of those prompts; on 2 rankings with the references of all prompts, which
teach a judge to read the prompt; and on 2,000 whose labels are shuffled, with such references and without,
which is the one that learnt nothing. Every judge is measured as the stage `evaluate` measures it, and judges
the outputs of two policies of random weights (sampled and greedy) and of the SFT policy beside the hidden
gold preference and the labelers themselves. Prints a line a judge, adds it to
benchmarks/results/judge-trust-<date>-<machine>.json; what is there already is not trained again.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.reward_hacking import Unlogged
from rlhf.data.contracts import COMPARISON, DEMONSTRATION, with_ids
from rlhf.data.files import read_json, write_json
from rlhf.data.table import read_table
from rlhf.judges.judge import Judge, ScoringJudge, blind_pairs
from rlhf.measures.display import number, rate_text
from rlhf.measures.evaluation import rates, rounded
from rlhf.measures.judge_trust import asking, measure
from rlhf.measures.known_pairs import labelers_of, labelled_pairs
from rlhf.models.policy import Policy, load_policy
from rlhf.models.reward_model import score
from rlhf.models.sampling import generate
from rlhf.models.scratch import new_model
from rlhf.models.template import as_row
from rlhf.settings import Scratch, Settings, SettingsError, load_settings
from rlhf.world.facts import read_facts
from rlhf.world.judges import gold_judge, simulated_judge
from rlhf.world.labelers import pool, rank
from tasks.evaluate import held_out
from tasks.reward import fit
from tasks.runtime.errors import one_line_errors

FACTS, DEMONSTRATIONS = "data/gold/facts.parquet", "data/prepared/demonstrations.parquet"
RANDOM = {"random": 0.7, "random, greedy": 0.0}  # policies of random weights -> temperature
HEAD = (
    f"{'judge':>24} {'seed':>4}  {'decides':7}  {'accuracy':23}  {'worst control':44}  random  greedy    SFT"
)


class Apart(Unlogged):
    """A stage without tracking, whose key is the folder of its checkpoints."""

    @property
    def checkpoints(self) -> Path:
        return Path(self.key)


@dataclass(frozen=True)
class Case:
    """How a judge is trained.

    Attributes:
        name: the case's name.
        rankings: how many rankings it learns from.
        references: whose references it learns to prefer to other prompts'; None for those of the rankings.
        shuffled: whether the labels are dealt out anew, so that they say nothing.
        contrast: whether it also learns to prefer references to those of other prompts, which needs no label.
    """

    name: str
    rankings: int
    references: int | None = None
    shuffled: bool = False
    contrast: bool = True


def cases(counts: Sequence[int]) -> list[Case]:
    """The judges to train."""
    most = max(counts)
    return [
        *(Case(f"{n}", n) for n in counts),
        Case(f"{min(counts)}, {most} references", min(counts), most),
        Case(f"{most} shuffled", most, shuffled=True),
        Case(f"{most} shuffled, alone", most, shuffled=True, contrast=False),
    ]


def sampled(posts: Sequence[Mapping[str, Any]], settings: Settings) -> list[list[str]]:
    """For each post its reference and samples of the SFT policy, as the stage `collect` shows them."""
    each = settings.collect.candidates - 1
    outputs = generate(
        load_policy("models/sft"),
        [post for post in posts for _ in range(each)],
        temperature=settings.collect.temperature,
        max_new_tokens=settings.evaluate.response_length,
        seed=settings.seed,
        batch_size=256,
    )
    return [
        list(dict.fromkeys(" " + text.strip() for text in [post["completion"], *own] if text.strip()))
        for post, own in zip(
            posts, (outputs[i : i + each] for i in range(0, len(outputs), each)), strict=True
        )
    ]


def ranked(
    posts: Sequence[Mapping[str, Any]], texts: Sequence[list[str]], split: str, settings: Settings, seed: int
) -> list[dict[str, Any]]:
    """Rankings by simulated labelers, one of each post with several texts."""
    facts = read_facts(FACTS)
    rng, people, rows = random.Random(f"{split}/{seed}"), pool(settings.collect.groups), []
    for post, shown in zip(posts, texts, strict=True):
        if len(shown) < 2:
            continue
        labeler, group = rng.choice(people)
        order = rng.sample(range(len(shown)), len(shown))
        label = rank(facts[post["prompt"]], shown, order, group, rng)
        row = {"prompt": post["prompt"], "completions": shown, "ranking": list(label.ranking)}
        row |= {"labeler_id": labeler, "labeler_group": group, "split": split, "shown_order": order}
        rows.append(row | {"policies": ["reference"] + ["sft"] * (len(shown) - 1)})
    return with_ids(COMPARISON, rows, "simulated")


def train(case: Case, rows: list[dict[str, Any]], posts: list[dict[str, Any]], settings: Settings) -> Judge:
    """A judge, trained by the stage's own function."""
    rng = random.Random(f"shuffle/{settings.seed}")
    chosen = [dict(row) for row in rows[: case.rankings]]
    for row in chosen if case.shuffled else ():
        row["ranking"] = rng.sample(row["ranking"], len(row["ranking"]))
    if not case.contrast:
        without = settings.reward.model_copy(update={"judge_contrast": 0})
        settings = settings.model_copy(update={"reward": without})
    read = {row["prompt"] for row in chosen}
    references = posts[: case.references] if case.references else [p for p in posts if p["prompt"] in read]
    with tempfile.TemporaryDirectory() as name, redirect_stdout(sys.stderr):
        stage = Apart("reward", settings, key=name, run_id="")
        model, _ = fit(stage, "judge", chosen, [row | {"split": "judge"} for row in references])

    def by_prompt(prompts: list[str], texts: list[str]) -> list[float]:
        return score(model, [as_row(prompt) for prompt in prompts], texts)

    return ScoringJudge("reward-model", "model", by_prompt)


def written(rows: Sequence[Mapping[str, Any]], settings: Settings, seed: int) -> dict[str, list[str]]:
    """Outputs of policies of random weights, and of SFT."""
    sft = load_policy("models/sft")
    torch.manual_seed(seed)
    base = settings.base
    if not isinstance(base, Scratch):
        raise SettingsError("policies of random weights are made for a base.type of scratch only")
    blank = new_model(base.scale, sft.tokenizer, base.context).eval()
    policies = {name: (Policy(blank, sft.tokenizer), value) for name, value in RANDOM.items()}
    policies["sft"] = (sft, settings.evaluate.temperature)
    return {
        name: generate(
            policy,
            rows,
            temperature=temperature,
            max_new_tokens=settings.evaluate.response_length,
            seed=seed,
        )
        for name, (policy, temperature) in policies.items()
    }


def judged(
    judge: Judge, rows: Sequence[Mapping[str, Any]], outputs: Mapping[str, Sequence[str]], seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Judgments of the outputs against the references, by policy."""
    references = [row["completion"] for row in rows]
    return {
        name: judge.judge(
            blind_pairs(name, rows, references, texts, split="test", source="benchmark", seed=seed)
        )
        for name, texts in outputs.items()
    }


def judges_of_seed(
    settings: Settings, chosen: Sequence[Case], texts: Mapping[str, list[str]]
) -> Iterator[dict[str, Any]]:
    """The judges of a seed, measured one after the other."""
    seed, confidence = settings.seed, settings.evaluate.confidence
    demonstrations = read_table(DEMONSTRATIONS, DEMONSTRATION)
    by_split = {
        split: [row for row in demonstrations if row["split"] == split and row["prompt"] in texts]
        for split in ("train", "validation")
    }
    posts = random.Random(f"posts/{seed}").sample(by_split["train"], len(by_split["train"]))
    shown = {name: [texts[row["prompt"]] for row in rows] for name, rows in by_split.items()}
    rankings = ranked(posts, [texts[row["prompt"]] for row in posts], "judge", settings, seed)
    known = ranked(by_split["validation"], shown["validation"], "validation", settings, seed)
    rows = held_out(DEMONSTRATIONS, settings.evaluate.prompts)
    outputs = written(rows, settings, seed)
    truth = {
        judge.kind: rates(judged(judge, rows, outputs, seed), confidence)["policies"]
        for judge in (gold_judge("gold", FACTS), simulated_judge(settings.collect.groups, FACTS, seed))
    }
    for case in chosen:
        start = time.monotonic()
        judge = train(case, rankings, posts, settings)
        trust = measure(
            asking(judge, "benchmark", seed),
            rows,
            labelled_pairs(known, ("validation",)),
            seed=seed,
            confidence=confidence,
            labelers=labelers_of(known),
        )
        policies = rates(judged(judge, rows, outputs, seed), confidence, trust)["policies"]
        kept = ("rate", "low", "high", "n", "corrected")
        yield rounded(
            {
                "judge": case.name,
                "seed": seed,
                "seconds": round(time.monotonic() - start, 1),
                "trust": trust.as_dict(),
                "policies": {
                    name: {key: row[key] for key in kept if key in row} for name, row in policies.items()
                },
                "truth": {
                    kind: {name: {key: row[key] for key in kept[:4]} for name, row in by_policy.items()}
                    for kind, by_policy in truth.items()
                },
            }
        )


def line(row: Mapping[str, Any]) -> str:
    """A judge in one line."""
    accuracy, controls = row["trust"]["accuracy"], row["trust"]["controls"]
    worst = min(controls, key=lambda control: control["low"])
    control = f"{worst['name']} {rate_text(worst)}"
    columns = "  ".join(f"{number(row['policies'][name]['rate']):>6}" for name in (*RANDOM, "sft"))
    decides = "yes" if row["trust"]["decides"] else "no"
    return (
        f"{row['judge']:>24} {row['seed']:4}  {decides:7}  {rate_text(accuracy):23}  {control:44}  {columns}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.judge_trust",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="a checkout with an SFT policy")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--rankings", nargs="+", type=int, default=[2, 20, 200, 2000])
    parser.add_argument("--judges", nargs="+", help="names of the judges to train (all that are not there)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the result")
    chosen = parser.parse_args()
    out = (chosen.out / f"judge-trust-{time.strftime('%Y-%m-%d')}-{platform.machine()}.json").resolve()
    os.chdir(chosen.folder)
    with one_line_errors():
        settings = load_settings()
        torch.set_num_threads(settings.threads)
        texts = candidates(settings, max(chosen.rankings))
        print(HEAD, flush=True)
        params = settings.model_dump(by_alias=True, include={"base", "collect", "reward", "evaluate"})
        for seed in chosen.seeds:
            there = {row["judge"] for row in kept_in(out) if row["seed"] == seed}
            wanted = [case for case in cases(chosen.rankings) if case.name not in there]
            if chosen.judges:
                wanted = [case for case in wanted if case.name in chosen.judges]
            for row in judges_of_seed(settings.model_copy(update={"seed": seed}), wanted, texts):
                print(line(row), flush=True)
                rows = [*kept_in(out), row]
                write_json(out, {"machine": platform.machine(), "params": params, "judges": rows})


def kept_in(out: Path) -> list[dict[str, Any]]:
    """The judges that a file of results holds; none where there is no file."""
    rows: list[dict[str, Any]] = read_json(out)["judges"] if out.exists() else []
    return rows


def candidates(settings: Settings, most: int) -> dict[str, list[str]]:
    """Texts to rank, by prompt: of this many training prompts and all validation prompts; sampled once."""
    kept = Path("checkpoints/judge-trust.json")
    demonstrations = read_table(DEMONSTRATIONS, DEMONSTRATION)
    posts = [row for row in demonstrations if row["split"] == "train"][: most + most // 10]
    posts += [row for row in demonstrations if row["split"] == "validation"]
    if not kept.exists() or len(read_json(kept)) < len(posts):
        shown = sampled(posts, settings)
        write_json(kept, {row["prompt"]: texts for row, texts in zip(posts, shown, strict=True)})
    texts: dict[str, list[str]] = read_json(kept)
    return texts


if __name__ == "__main__":
    main()
