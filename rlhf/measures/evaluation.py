"""From judgments to the content of metrics/evaluation.json: rates, comparisons, slices, hacking.

Everything here reads rows of the contract JUDGMENT, so that people, programs and models are counted alike. A
prompt that several people judged counts once, by the mean of their points, and so do spellings of one prompt.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from rlhf.data.distinct import first_of_spelling
from rlhf.judges.judge import Judge, Row, blind_pairs, to_preference
from rlhf.measures.agreement import agreement
from rlhf.measures.judge_trust import Trust
from rlhf.measures.length_control import length_controlled_rate
from rlhf.measures.overoptimisation import Form, find_hacking, fit_gao
from rlhf.measures.prediction_powered import prediction_powered_rate
from rlhf.measures.rates import POINTS, compare_paired, preference_rate, prompt_means, wilson
from rlhf.measures.rogan_gladen import corrected_rate
from rlhf.measures.safety import Checks, check_outputs
from rlhf.measures.slices import length_slices, slice_rates

TIE_RULE = "a tie counts one half"
PAIRS = (("ppo", "sft"), ("sft", "pretrained"))
Judged = Mapping[str, Sequence[Row]]  # policy -> its judgments


def rates(judged: Judged, confidence: float, trust: Trust | None = None) -> dict[str, Any]:
    """One judge's rates by policy, raw, at equal length, and `corrected` for the judge's errors where `trust`
    knows them; and the policies compared on the same prompts.

    Policies without a judgment are left out.
    """
    policies = {}
    for policy, rows in judged.items():
        if not rows:
            continue
        prompts = first_of_spelling([row["prompt"] for row in rows])
        rate = preference_rate([row["preferred"] for row in rows], confidence, prompts)
        points = points_by_prompt(rows)
        longer = prompt_means([words(row["output"]) - words(row["reference"]) for row in rows], prompts)
        level = length_controlled_rate(list(points.values()), longer, confidence)
        policies[policy] = asdict(rate) | {"length_controlled": asdict(level)}
        if trust and trust.decides:
            errors = (trust.sensitivity, trust.specificity)
            corrected = corrected_rate(list(points.values()), *errors, confidence)
            policies[policy]["corrected"] = corrected and asdict(corrected)
    compared = {
        f"{a}_vs_{b}": compare(judged[a], judged[b], confidence)
        for a, b in PAIRS
        if a in policies and b in policies
    }
    return {"policies": policies, "comparisons": {name: row for name, row in compared.items() if row}}


def compare(first: Sequence[Row], second: Sequence[Row], confidence: float) -> dict[str, Any] | None:
    """Two policies on the prompts that both were judged on (McNemar); None where there is none."""
    one, two = words_by_prompt(first), words_by_prompt(second)
    shared = [prompt for prompt in one if prompt in two]
    if not shared:
        return None
    return compare_paired([one[p] for p in shared], [two[p] for p in shared], confidence).as_dict()


def judges_agree(one: Judged, other: Judged, confidence: float) -> dict[str, Any] | None:
    """Agreement of two judges over policies and prompts; None where they share no item.

    Of several people, the side that most of them preferred counts as their judgment.
    """
    labels: dict[tuple[str, str], dict[str, str]] = {}
    for name, judged in (("one", one), ("other", other)):
        for policy, rows in judged.items():
            for prompt, word in words_by_prompt(rows).items():
                labels.setdefault((policy, prompt), {})[name] = word
    if not any(len(given) == 2 for given in labels.values()):
        return None
    return agreement(labels, confidence).as_dict()


def helped_by_model(people: Sequence[Row], model: Sequence[Row], confidence: float) -> dict[str, Any] | None:
    """The rate that people would give to every prompt, a model's judgments helping; None where it cannot be
    known: people judged fewer than two prompts, or all that the model judged."""
    human, other = points_by_prompt(people), points_by_prompt(model)
    both, only = [p for p in human if p in other], [p for p in other if p not in human]
    if len(both) < 2 or not only:
        return None
    return asdict(
        prediction_powered_rate(
            [human[p] for p in both], [other[p] for p in both], [other[p] for p in only], confidence
        )
    )


def slices(
    judged: Judged,
    topics: Mapping[str, str | None],
    writers: Mapping[str, str | None],
    confidence: float,
    least: int = 20,
) -> dict[str, list[dict[str, Any]]]:
    """PPO's rate by slice, compared with SFT's; see `compare_slices`."""
    return compare_slices(judged.get("ppo", []), judged.get("sft", []), topics, writers, confidence, least)


def compare_slices(
    first: Sequence[Row],
    second: Sequence[Row],
    topics: Mapping[str, str | None],
    writers: Mapping[str, str | None],
    confidence: float,
    least: int = 20,
) -> dict[str, list[dict[str, Any]]]:
    """A policy's rate by topic, length of the prompt and group of the reference's writer, and where it fell
    against another policy.

    Args:
        first, second: judgments of the two policies by one judge.
        topics, writers: of each prompt. A writer's group is the id without its number: `terse-2` is `terse`.
        confidence: see `slice_rates`.
        least: slices of fewer prompts are one slice, `other`.

    Returns:
        The fields of `rlhf.measures.slices.Slice` by kind of slice; nothing where the two share no prompt.
    """
    one, two = words_by_prompt(first), words_by_prompt(second)
    prompts = [prompt for prompt in one if prompt in two]
    if not prompts:
        return {}
    kinds = {
        "topic": [topics.get(prompt) or "none" for prompt in prompts],
        "prompt length": length_slices(prompts),
        "writer group": [re.sub(r"-?\d+$", "", writers.get(prompt) or "") or "none" for prompt in prompts],
    }
    merged = {}
    for kind, names in kinds.items():
        count = Counter(names)
        named = [name if count[name] >= least else "other" for name in names]
        if len(set(named)) > 1:
            merged[kind] = named
    tables = slice_rates([one[p] for p in prompts], [two[p] for p in prompts], merged, confidence)
    return {kind: [row.as_dict() for row in rows] for kind, rows in tables.items()}


def safety(texts: Mapping[str, Sequence[str]], banned: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Shares of outputs with findings by policy; no examples, since those are what must not be repeated."""
    return {
        policy: {
            key: value
            if isinstance(value, int | float)
            else {"count": value["count"], "share": value["share"]}
            for key, value in found.items()
        }
        for policy, found in check_outputs(texts, Checks(banned=banned)).items()
    }


def judge_snapshots(
    judge: Judge, rows: Sequence[Row], confidence: float, tolerance: float, seed: int
) -> dict[str, Any] | None:
    """Preference against the reward model's score along PPO and best-of-n, with the fits of Gao et al. 2022.

    Args:
        judge: any but people, who have not seen these outputs.
        rows: of the contract `rlhf.rl.snapshots.SNAPSHOT`.
        confidence, tolerance: see `rlhf.measures.overoptimisation.find_hacking`.
        seed: of the order in which the judge sees the texts.

    Returns:
        `judge`, `n`, `looks` (update, kl, score, rate, low, high), `fit` (None where the policy hardly
        moved), `hacking`, and `best_of_n` with `looks` (n, kl, score, rate, low, high) and `fit`, None where
        there are none; None for fewer than two looks or prompts.
    """
    looks: dict[tuple[int, int], list[Row]] = {}  # by update and n
    for row in rows:
        looks.setdefault((row["update"], row["n"]), []).append(row)
    points = {key: points_by_prompt(_judge_look(judge, look, seed)) for key, look in looks.items()}
    shared = [p for p in next(iter(points.values()), {}) if all(p in given for given in points.values())]
    along = [key for key in looks if key[1] == 1]
    best_of = sorted(key for key in looks if key[0] == 0)
    if len(along) < 2 or len(shared) < 2:
        return None
    table = {key: [points[key][prompt] for prompt in shared] for key in looks}
    summary = {key: _summary_of(look, table[key], confidence) for key, look in looks.items()}
    updates = [update for update, _ in along]
    found = find_hacking(
        [summary[key]["score"] for key in along], [table[key] for key in along], confidence, tolerance
    ).as_dict()
    return {
        "judge": {"name": judge.name, "kind": judge.kind},
        "n": len(shared),
        "looks": [{"update": key[0]} | summary[key] for key in along],
        "fit": _fit([summary[key] for key in along], "rl"),
        "hacking": found | {key: updates[found[key]] for key in ("best", "before", "after")},
        "best_of_n": {
            "looks": [{"n": key[1]} | summary[key] for key in best_of],
            "fit": _fit([summary[key] for key in best_of], "best-of-n"),
        }
        if len(best_of) > 1
        else None,
    }


def _judge_look(judge: Judge, look: Sequence[Row], seed: int) -> list[Row]:
    columns = ([row[column] for row in look] for column in ("prompt", "reference", "output"))
    update, n, source = look[0]["update"], look[0]["n"], look[0]["source"]
    name = f"ppo@{update}" if n == 1 else f"best-of-{n}"
    return judge.judge(blind_pairs(name, *columns, split="validation", source=source, seed=seed))


def _summary_of(look: Sequence[Row], points: Sequence[float], confidence: float) -> dict[str, float]:
    low, high = wilson(points, confidence)
    distance, score = (fmean(row[key] for row in look) for key in ("kl", "score"))
    return {"kl": max(0.0, distance), "score": score, "rate": fmean(points), "low": low, "high": high}


def _fit(looks: Sequence[Mapping[str, float]], form: Form) -> dict[str, Any] | None:
    """The curve through the gains over the first look; None where the others are not two distances away."""
    kl = [look["kl"] for look in looks]
    if len({value for value in kl if value > 0}) < 2:
        return None
    return fit_gao(kl, [look["rate"] - looks[0]["rate"] for look in looks], form).as_dict()


def points_by_prompt(rows: Sequence[Row]) -> dict[str, float]:
    """Mean points of each prompt, in the order of the rows; of several spellings the first stands for all."""
    if not rows:
        return {}
    prompts = first_of_spelling([row["prompt"] for row in rows])
    means = prompt_means([POINTS[row["preferred"]] for row in rows], prompts)
    return dict(zip(dict.fromkeys(prompts), means.tolist(), strict=True))


def words_by_prompt(rows: Sequence[Row]) -> dict[str, str]:
    """One judgment a prompt: of several, the side with more points."""
    return {prompt: to_preference(points - 0.5) for prompt, points in points_by_prompt(rows).items()}


def words(text: str) -> int:
    """Length in words."""
    return len(text.split())


def rounded(value: Any) -> Any:
    """Six decimals, what is left of the last bits of a float being noise; NaN, which JSON lacks, is None."""
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value
