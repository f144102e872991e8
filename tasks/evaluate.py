"""Judge every policy against the human-written references: `python -m tasks.evaluate`.

Reads the held-out prompts with their references and the three policies; writes the judgments,
metrics/evaluation.json, reports/figures and reports/report.html.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rlhf.contracts import (
    DEMONSTRATION,
    GOLD,
    JUDGMENT,
    read_json,
    read_table,
    write_json,
    write_table,
    written_beside,
)
from rlhf.figures import curve_figures, preference_figure
from rlhf.judges import ScoringJudge, blind_pairs, load_judge, to_preference
from rlhf.report import print_table, render_report, write_figures
from rlhf.statistics import compare_paired, preference_rate
from tasks.context import Stage, StageError, content_hash, flat, run, stage_params, stages

POLICIES = ("pretrained", "sft", "ppo")
PAIRS = (("ppo", "sft"), ("sft", "pretrained"))
DEMONSTRATIONS = "data/prepared/demonstrations.parquet"
FACTS = "data/gold/facts.parquet"
_KINDS = {"gold": "gold", "reward-model": "model"}  # evaluate.judge -> kind in judge.json
_DISPLAY = ("ppo", "sft", "pretrained")
_DATA = ("data/", "models/", "metrics/", "plots")


def main(stage: Stage) -> dict[str, float]:
    """Generate, judge, count, draw, write."""
    settings, seed = stage.settings.evaluate, stage.settings.seed
    judge = load_judge("models/judge", FACTS)
    if judge.kind != _KINDS[settings.judge]:
        raise StageError(
            f"models/judge holds a {judge.kind} judge, params ask for {settings.judge}; rerun reward"
        )
    rows = held_out(DEMONSTRATIONS, settings.prompts)
    stage.log_dataset(DEMONSTRATIONS, rows, "evaluation")
    prompts, references = [row["prompt"] for row in rows], [row["completion"] for row in rows]
    outputs, kl = sample_policies(stage, prompts)
    margins = {name: judge.margins(prompts, references, texts) for name, texts in outputs.items()}
    preferred = {name: [to_preference(margin) for margin in row] for name, row in margins.items()}

    evaluation = summarise(judge, preferred, outputs, references, kl, settings.confidence, seed)
    if judge.kind == "gold":
        for name, axes in quality_axes(prompts, {"reference": references} | outputs).items():
            (evaluation["reference"] if name == "reference" else evaluation["policies"][name]).update(axes)
    figures = {"preferred-to-reference": preference_figure(evaluation, settings.confidence)} | curve_figures(
        "plots"
    )
    samples = pick_samples(rows, outputs, preferred["ppo"], margins["ppo"])
    page = render_report(
        evaluation,
        figures,
        samples,
        stage_key=stage.key,
        inputs={path: content_hash(path) for path in stages()["evaluate"]["deps"] if path.startswith(_DATA)},
        params=flat(stage_params("evaluate")),
        reward=read_json("metrics/reward.json"),
        rankings=read_json("metrics/collect.json"),
    )

    judgments = []
    for name, texts in outputs.items():
        origin = {"split": "test", "source": rows[0]["source"], "seed": seed}
        judgments += judge.judge(blind_pairs(name, prompts, references, texts, **origin))
    write_table("data/judgments/judgments.parquet", JUDGMENT, judgments)
    with written_beside("reports/figures") as beside:
        write_figures(beside, figures)
    with written_beside("reports/report.html") as beside:
        beside.write_text(page)
    write_json("metrics/evaluation.json", evaluation)

    stage.log_samples([_table_row(sample) for sample in samples], "samples")
    for path in ("reports/figures", "reports/report.html", "metrics/evaluation.json"):
        stage.log_artifact(path)
    print_table(evaluation)
    return {
        f"{name}/{key}": row[key]
        for name, row in evaluation["policies"].items()
        for key in ("rate", "low", "high", "mean_length", "kl")
    } | {"n": evaluation["n"]}


def held_out(path: str, most: int) -> list[dict[str, Any]]:
    """Test demonstrations, one a prompt, at most `most`, in the order of their ids: random, yet fixed.

    Raises:
        StageError: there are none.
    """
    rows = [row for row in read_table(path, DEMONSTRATION) if row["split"] == "test"]
    chosen = {row["prompt"]: row for row in sorted(rows, key=lambda row: row["id"], reverse=True)}
    if not chosen:
        raise StageError(
            f"{path}: no demonstration in split test; give a source with one or set prepare.test_share"
        )
    return sorted(chosen.values(), key=lambda row: row["id"])[:most]


def sample_policies(stage: Stage, prompts: list[str]) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Outputs of every policy, and its KL to the SFT policy in nats a sequence."""
    import torch

    from rlhf.policy import generate, load_policy, mean_kl

    settings = stage.settings.evaluate
    torch.set_num_threads(stage.settings.threads)
    sft = load_policy("models/sft")
    outputs, kl = {}, {"sft": 0.0}
    for name in POLICIES:
        policy = sft if name == "sft" else load_policy(f"models/{name}")
        outputs[name] = generate(
            policy,
            prompts,
            temperature=settings.temperature,
            max_new_tokens=settings.response_length,
            seed=stage.settings.seed,
        )
        if name != "sft":  # greedy sampling has no distribution of its own: its KL is taken at temperature 1
            kl[name] = mean_kl(policy, sft, prompts, outputs[name], temperature=settings.temperature or 1.0)
    return outputs, kl


def summarise(
    judge: ScoringJudge,
    preferred: Mapping[str, Sequence[str]],
    outputs: Mapping[str, Sequence[str]],
    references: Sequence[str],
    kl: Mapping[str, float],
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """The content of metrics/evaluation.json; lengths are in words."""
    policies = {}
    for name, judged in preferred.items():
        rate = preference_rate(judged, confidence)
        policies[name] = {
            "rate": rate.rate,
            "low": rate.low,
            "high": rate.high,
            "wins": rate.wins,
            "ties": rate.ties,
            "losses": rate.losses,
            "mean_length": _words(outputs[name]),
            "kl": kl[name],
        }
    return _rounded(
        {
            "judge": {"name": judge.name, "kind": judge.kind},
            "n": len(references),
            "confidence": confidence,
            "policies": policies,
            "reference": {"mean_length": _words(references)},
            "comparisons": {
                f"{a}_vs_{b}": compare_paired(preferred[a], preferred[b], confidence, seed).as_dict()
                for a, b in PAIRS
            },
        }
    )


def quality_axes(prompts: Sequence[str], texts: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """Mean coverage, accuracy and coherence of texts about posts of the built-in task, 0..1."""
    from rlhf.world.gold import quality

    facts = {row["prompt"]: json.loads(row["facts"]) for row in read_table(FACTS, GOLD)}
    axes: dict[str, dict[str, float]] = {}
    for name, written in texts.items():
        measured = [quality(facts[prompt], text) for prompt, text in zip(prompts, written, strict=True)]
        axes[name] = _rounded(
            {
                key: fmean(getattr(row, key) for row in measured)
                for key in ("coverage", "accuracy", "coherence")
            }
        )
    return axes


def pick_samples(
    rows: Sequence[Mapping[str, Any]],
    outputs: Mapping[str, Sequence[str]],
    preferred: Sequence[str],
    margins: Sequence[float],
    each: int = 2,
) -> list[dict[str, Any]]:
    """The worst, median and best PPO outputs by margin, `each` of them (fewer where there are few)."""
    order = sorted(range(len(rows)), key=lambda i: (margins[i], rows[i]["id"]))
    middle = max(0, (len(order) - each) // 2)
    places = [
        ("worst", order[:each]),
        ("typical", order[middle : middle + each]),
        ("best", order[::-1][:each]),
    ]
    return [
        {
            "place": place,
            "prompt": rows[i]["prompt"],
            "reference": rows[i]["completion"],
            "outputs": {name: outputs[name][i] for name in sorted(outputs, key=_DISPLAY.index)},
            "preferred": preferred[i],
            "margin": margins[i],
        }
        for place, chosen in places
        for i in chosen
    ]


def _table_row(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in sample.items() if key != "outputs"} | dict(sample["outputs"])


def _words(texts: Sequence[str]) -> float:
    return fmean(len(text.split()) for text in texts)


def _rounded(value: Any) -> Any:
    """Six decimals: what is left of the last bits of a float is noise."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, 6) if isinstance(value, float) else value


if __name__ == "__main__":
    run("evaluate", main)
