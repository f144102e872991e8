"""Judge every policy against the references of held-out prompts: `python -m tasks.evaluate`.

Reads the held-out prompts with their references, the three policies and PPO's evaluation
snapshots; writes the judgments of each judge, data/judgments/page.json with the samples for the report, and
metrics/evaluation.json. The gate reads the first of `evaluate.judges`; the others stand beside it.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rlhf.data.columns import rows_of
from rlhf.data.contracts import COMPARISON, DEMONSTRATION, JUDGMENT, PROMPT, SNAPSHOT
from rlhf.data.distinct import near_copies
from rlhf.data.files import read_json, write_json, written_beside
from rlhf.data.table import read_table, write_table
from rlhf.judges.judge import Explains, Judge, PairedJudge, Row, blind_pairs
from rlhf.measures.alpha_spending import outcome
from rlhf.measures.by_prompt import preference_by_prompt
from rlhf.measures.caveats import caveats
from rlhf.measures.evaluation import PAIRS, TIE_RULE, helped_by_model, judges_agree, rates, rounded
from rlhf.measures.judge_trust import Trust
from rlhf.measures.length_control import word_count
from rlhf.measures.rouge import rouge_table
from rlhf.measures.safety import finding_shares
from rlhf.measures.samples import margins, pick_samples
from rlhf.measures.slice_comparison import compare_slices
from rlhf.measures.snapshot_judgments import judge_snapshots
from rlhf.measures.summary import print_table
from rlhf.settings import Evaluate
from rlhf.world.judges import mean_quality
from tasks.graph import content_hash, stages
from tasks.judging import COMPARISONS, FACTS, judge_all, load_judge, trust_in
from tasks.runtime.errors import StageError
from tasks.runtime.outcome import write_rate
from tasks.runtime.past_evaluations import record_evaluation
from tasks.runtime.stage import Stage, run

POLICIES = ("pretrained", "sft", "ppo")
DEMONSTRATIONS = "data/prepared/demonstrations.parquet"
PROMPTS = "data/prepared/prompts.parquet"
_DATA = ("data/", "models/")


def main(stage: Stage) -> dict[str, float]:
    """Generate, judge, count, write."""
    settings, seed = stage.settings.evaluate, stage.settings.seed
    rankings = read_table(COMPARISONS, COMPARISON)
    judges: dict[str, Judge] = {name: load_judge(name, stage.settings, rankings) for name in settings.judges}
    rows = held_out(DEMONSTRATIONS, settings.prompts)
    stage.log_dataset(DEMONSTRATIONS, rows, "evaluation")
    prompts, references = [row["prompt"] for row in rows], [row["completion"] for row in rows]
    outputs, kl = sample_policies(stage, rows)
    pairs = {
        name: blind_pairs(name, rows, references, texts, split="test", source=rows[0]["source"], seed=seed)
        for name, texts in outputs.items()
    }
    judged = {name: judge_all(judge, pairs) for name, judge in judges.items()}
    trust = {name: trust_in(judge, rows, pairs, settings, seed) for name, judge in judges.items()}
    others = other_references(DEMONSTRATIONS, rows)
    human = {name: judge_human(judge, rows, others, settings, seed) for name, judge in judges.items()}

    evaluation = summarise(stage, judges, judged, trust, rows, outputs, kl)
    if "gold" in judges:
        for name, axes in mean_quality(FACTS, prompts, {"reference": references} | outputs).items():
            row = evaluation["reference"] if name == "reference" else evaluation["policies"][name]
            row.update(rounded(axes))
    for name, row in human.items():
        if row:
            evaluation["judges"][name]["human"] = rounded(row)
    if first_human := human[settings.gate_judge]:
        evaluation["human"] = rounded(first_human)
    if settings.rouge:
        every = [[reference, *texts] for reference, texts in zip(references, others, strict=True)]
        evaluation["rouge"] = rounded(rouge_table(outputs, every, PAIRS, settings.confidence))
    evaluation["warnings"] = caveats(
        evaluation, outputs, references, {name: weights_hash(f"models/{name}") for name in POLICIES}
    )
    first = settings.gate_judge
    # The gate reads this evaluation for these weights and these judgments only.
    evaluation |= {
        "weights": {name: content_hash(f"models/{name}") for name in POLICIES},
        "outcome": outcome(judged[first]["ppo"]),
        "near_copies": rounded(near_copies(prompts)),
    }
    record_evaluation(stage, judged[first]["ppo"])
    samples = pick_samples(
        rows,
        outputs,
        preference_by_prompt(judged[first]["ppo"]),
        margins(judges[first], judged[first]["ppo"]),
    )
    page = {
        "stage_key": stage.key,
        "inputs": {
            path: content_hash(path) for path in stages()["evaluate"]["deps"] if path.startswith(_DATA)
        },
        "samples": samples,
    }

    with written_beside("data/judgments") as folder:
        folder.mkdir()
        for name, by_policy in judged.items():
            table = "judgments" if name == first else f"judgments-{name}"
            judgments = [row for of_policy in by_policy.values() for row in of_policy]
            write_table(folder / f"{table}.parquet", JUDGMENT, judgments)
        write_json(folder / "page.json", page)
    write_json("metrics/evaluation.json", evaluation)
    write_rate(evaluation)

    stage.log_samples([_table_row(sample) for sample in samples], "samples")
    stage.log_artifact("metrics/evaluation.json")
    print_table(evaluation)
    return (
        {
            f"{name}/{key}": row[key]
            for name, row in evaluation["policies"].items()
            for key in ("rate", "low", "high", "mean_length", "kl")
        }
        | {"n": evaluation["n"]}
        | trust_figures(evaluation["judges"])
        | {f"human/{key}": evaluation["human"][key] for key in ("rate", "low", "high") if human[first]}
        | {
            f"{policy}/{name}": row[name]["mean"]
            for policy, row in evaluation.get("rouge", {"policies": {}})["policies"].items()
            for name in row
        }
    )


def weights_hash(folder: str) -> str:
    """Hash of a policy's weights alone, in however many files they are."""
    return " ".join(map(content_hash, sorted(Path(folder).glob("*.safetensors"))))


def other_references(path: str, rows: Sequence[Row]) -> list[list[str]]:
    """What people wrote for the prompts of `held_out` beside its completions, in the order of their ids."""
    chosen, others = {row["id"] for row in rows}, {row["prompt"]: dict[str, str]() for row in rows}
    for row in read_table(path, DEMONSTRATION).where("split", "test"):
        if row["prompt"] in others and row["id"] not in chosen:
            others[row["prompt"]][row["id"]] = row["completion"]
    return [[text for _, text in sorted(others[row["prompt"]].items())] for row in rows]


def judge_human(
    judge: Judge, rows: Sequence[Row], others: Sequence[Sequence[str]], settings: Evaluate, seed: int
) -> dict[str, Any] | None:
    """How often what another person wrote is preferred to the reference; None where nobody can say.

    The control of a judge: people are people's equals, whatever else a judge says. Each question to a judge
    that sees both texts may cost money, so that it is asked `evaluate.llm.control_prompts` of them.
    """
    asked = [(row, texts[-1]) for row, texts in zip(rows, others, strict=True) if texts]
    if isinstance(judge, PairedJudge):
        asked = asked[: settings.llm.control_prompts]
    if not asked:
        return None
    posts, texts = [row for row, _ in asked], [text for _, text in asked]
    references, source = [row["completion"] for row in posts], posts[0]["source"]
    pairs = blind_pairs("human", posts, references, texts, split="test", source=source, seed=seed)
    rates_of = rates({"human": judge.judge(pairs)}, settings.confidence)["policies"]
    length = {"mean_length": fmean(map(word_count, texts))}
    return rates_of["human"] | length if rates_of else None


def held_out(path: str, most: int) -> list[dict[str, Any]]:
    """Test demonstrations, one a prompt, at most `most`, in the order of their ids: random, yet fixed.

    Raises:
        StageError: there are none.
    """
    rows = read_table(path, DEMONSTRATION).where("split", "test")
    ids, prompts = (rows.column(name).to_pylist() for name in ("id", "prompt"))
    chosen = {prompts[i]: i for i in sorted(range(len(ids)), key=ids.__getitem__, reverse=True)}
    if not chosen:
        raise StageError(
            f"{path}: no demonstration in split test; give a source with one or set prepare.test_share"
        )
    places = sorted(chosen.values(), key=ids.__getitem__)[:most]
    return sorted(rows.take(sorted(places)), key=lambda row: row["id"])  # read in the file's order


def sample_policies(stage: Stage, rows: list[Row]) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Outputs of every policy, and its KL to the SFT policy in nats a sequence."""
    import torch

    from rlhf.models.logprobs import mean_kl
    from rlhf.models.policy import load_policy
    from rlhf.models.sampling import generate

    settings = stage.settings.evaluate
    torch.set_num_threads(stage.settings.threads)
    sft = load_policy("models/sft")
    outputs, kl = {}, {"sft": 0.0}
    for name in POLICIES:
        policy = sft if name == "sft" else load_policy(f"models/{name}")
        outputs[name] = generate(
            policy,
            rows,
            temperature=settings.temperature,
            max_new_tokens=settings.response_length,
            seed=stage.settings.seed,
        )
        if name != "sft":  # greedy sampling has no distribution of its own: its KL is taken at temperature 1
            kl[name] = mean_kl(policy, sft, rows, outputs[name], temperature=settings.temperature or 1.0)
    return outputs, kl


def summarise(
    stage: Stage,
    judges: Mapping[str, Judge],
    judged: Mapping[str, Mapping[str, list[Row]]],
    trust: Mapping[str, Trust],
    rows: Sequence[Mapping[str, Any]],
    outputs: Mapping[str, Sequence[str]],
    kl: Mapping[str, float],
) -> dict[str, Any]:
    """The content of metrics/evaluation.json; lengths are in words.

    Raises:
        StageError: the first judge judged no output of PPO.
    """
    settings, seed = stage.settings.evaluate, stage.settings.seed
    confidence, first = settings.confidence, settings.gate_judge
    if not judged[first]["ppo"]:
        asked = judges[first]
        faults = asked.faults() if isinstance(asked, Explains) else ""
        raise StageError(
            f"the judge {first} judged no output of PPO{faults and f': {faults}'}; name another first in "
            "evaluate.judges"
        )
    by_judge = {
        name: {"kind": judge.kind, "name": judge.name, "tie_rule": TIE_RULE, "trust": trust[name].as_dict()}
        | rates(judged[name], confidence, trust[name])
        for name, judge in judges.items()
    }
    for name, judge in judges.items():
        if name != first:
            by_judge[name]["agreement"] = {
                first: judges_agree(judged[first], judged[name], confidence),
            }
        if judge.kind == "human":
            models = [other for other in judges if other != name]
            by_judge[name]["prediction_powered"] = {
                other: {p: helped_by_model(judged[name][p], judged[other][p], confidence) for p in POLICIES}
                for other in models
            }
    references = [row["completion"] for row in rows]
    policies = {
        name: row | {"mean_length": fmean(map(word_count, outputs[name])), "kl": kl[name]}
        for name, row in by_judge[first]["policies"].items()
    }
    writers = {row["prompt"]: row["writer_id"] for row in rows}
    topics = {
        row["prompt"]: row["topic"]
        for batch in read_table(PROMPTS, PROMPT).batches(["prompt", "topic"])
        for row in rows_of(batch)
        if row["prompt"] in writers
    }
    snapshots = read_table("data/snapshots/snapshots.parquet", SNAPSHOT)
    along = next(
        (judge for name, judge in judges.items() if judge.kind != "human" and trust[name].decides), None
    )
    return rounded(
        {
            # `key` is its place under `judges`, whose order JSON does not keep
            "judge": {"key": first, "name": judges[first].name, "kind": judges[first].kind}
            | {"tie_rule": TIE_RULE},
            "n": policies["ppo"]["n"],
            "confidence": confidence,
            "policies": policies,
            "reference": {"mean_length": fmean(map(word_count, references))},
            "comparisons": by_judge[first]["comparisons"],
            "judges": by_judge,
            "slices": compare_slices(judged[first]["ppo"], judged[first]["sft"], topics, writers, confidence),
            "safety": finding_shares({**outputs, "reference": references}, settings.banned_words),
            "overoptimisation": along
            and judge_snapshots(along, snapshots, confidence, settings.hacking_tolerance, seed),
            "held_out": read_json("data/snapshots/held-out.json"),
        }
    )


def trust_figures(judges: Mapping[str, Any]) -> dict[str, float]:
    """Whether each judge that is a model decides, and its accuracy, as single numbers."""
    figures: dict[str, float] = {}
    for name, judge in judges.items():
        if judge["kind"] == "model":
            figures[f"judge/{name}/decides"] = float(judge["trust"]["decides"])
            if accuracy := judge["trust"]["accuracy"]:
                numbers = ("rate", "low", "high", "n")
                figures |= {f"judge/{name}/accuracy/{key}": float(accuracy[key]) for key in numbers}
    return figures


def _table_row(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample as a row of MLflow's table, whose prompt is the transcript of a conversation already."""
    row = {key: value for key, value in sample.items() if key not in ("messages", "outputs")}
    return row | dict(sample["outputs"])


if __name__ == "__main__":
    run("evaluate", main)
