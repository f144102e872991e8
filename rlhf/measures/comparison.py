"""Compare runs on the same prompts: which is best, by how much, whether that is sure, what was different.

Two runs are compared on the prompts that the same judge judged for both. With many runs some pair differs by
chance alone: p values are Holm-adjusted over all pairs, because the best run is known only afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from rlhf.judges.judge import Row
from rlhf.measures.by_prompt import preference_by_prompt
from rlhf.measures.deciding_judge import first_trust
from rlhf.measures.display import difference_text, rate_text
from rlhf.measures.evaluation import compare
from rlhf.measures.exact_tests import holm
from rlhf.measures.slice_comparison import compare_slices

SHOWN = 200  # prompts whose outputs are shown side by side, at most
SAMPLING = ("evaluate.temperature", "evaluate.response_length")  # how the judged outputs were drawn


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Attributes:
        name: by which it was asked for.
        evaluation: what stands in metrics/evaluation.json.
        judgments: rows of the contract JUDGMENT by the first judge, all policies.
        params: every parameter by dotted key.
        data: path -> hash of the data sets that it was made from.
        weights: hash of its policy.
        gate: `promoted` and `version`; empty where it was not registered.
        cost: `seconds` and `memory_mb` of all stages; empty where nobody measured.
        topics, writers: topic of each prompt, and writer of its reference.
    """

    name: str
    evaluation: Mapping[str, Any]
    judgments: Sequence[Row]
    params: Mapping[str, Any]
    data: Mapping[str, str]
    weights: str = ""
    gate: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    topics: Mapping[str, str | None] = field(default_factory=dict)
    writers: Mapping[str, str | None] = field(default_factory=dict)

    def rows(self, policy: str = "ppo") -> list[Row]:
        """The judgments of a policy."""
        return [row for row in self.judgments if row["policy"] == policy]

    @property
    def judge(self) -> str:
        """The name of the judge whose rates the evaluation shows."""
        return str(self.evaluation["judge"]["name"])


def compare_runs(runs: Sequence[Run], confidence: float = 0.95) -> dict[str, Any]:
    """Runs side by side, the best first.

    Args:
        runs: two or more, with names of their own.
        confidence: coverage of each interval; 1 minus it is the chance that any pair is called different
            without cause, and the same for any slice.

    Returns:
        `verdict` (sentences), `warnings`, `runs` (name, rates, cost, `differs` in short), `params` and `data`
        (rows of key and values that are not all equal), `pairs` (see `pairwise`), `slices` (see
        `moved_slices`) and `samples` (see `side_by_side`).

    Raises:
        ValueError: fewer than two runs, or two of one name.
    """
    if len({run.name for run in runs}) != len(runs) or len(runs) < 2:
        raise ValueError("a comparison needs two or more runs with names of their own")
    ordered = sorted(runs, key=lambda run: -run.evaluation["policies"]["ppo"]["rate"])
    params = differing({run.name: run.params for run in ordered})
    pairs = pairwise(ordered, confidence)
    result = {
        "confidence": confidence,
        "runs": [_row(run) | {"differs": what_differs(run.name, params)} for run in ordered],
        "params": params,
        "data": differing({run.name: run.data for run in ordered}),
        "pairs": pairs,
        "slices": moved_slices(ordered, confidence),
        "samples": side_by_side(ordered),
        "warnings": warnings_about(ordered),
    }
    return result | {"verdict": verdict_of(ordered, pairs, confidence)}


def _row(run: Run) -> dict[str, Any]:
    """What the table of the runs shows."""
    row, sft = run.evaluation["policies"]["ppo"], run.evaluation["policies"].get("sft")
    trust = first_trust(run.evaluation) or {}
    return {
        "name": run.name,
        "rate": row["rate"],
        "low": row["low"],
        "high": row["high"],
        "n": row["n"],
        "judge": run.judge,
        "judge_accuracy": trust.get("accuracy"),
        "sft": sft,
        "kl": row.get("kl"),
        "mean_length": row.get("mean_length"),
        "promoted": run.gate.get("promoted"),
        "version": run.gate.get("version"),
        "seconds": run.cost.get("seconds"),
        "memory_mb": run.cost.get("memory_mb"),
    }


def differing(values: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Keys whose values are not the same in all runs: `key` and `values`, name -> value (None where none)."""
    keys = dict.fromkeys(key for of_run in values.values() for key in of_run)
    rows = [(key, {name: row.get(key) for name, row in values.items()}) for key in keys]
    return [
        {"key": key, "values": row}
        for key, row in rows
        if len({_frozen(value) for value in row.values()}) > 1
    ]


def what_differs(name: str, params: Sequence[Mapping[str, Any]]) -> list[str]:
    """`key=value` of a run where its value is not the one that most of the runs have."""
    changes = []
    for row in params:
        counts = Counter(_frozen(value) for value in row["values"].values())
        usual, most = counts.most_common(1)[0]
        value = row["values"][name]
        if most == 1 or _frozen(value) != usual:
            changes.append(f"{row['key']}={value}")
    return changes


def pairwise(runs: Sequence[Run], confidence: float) -> list[dict[str, Any]]:
    """Every pair that one judge saw on shared prompts: the fields of `rlhf.measures.rates.Paired`, `first`,
    `second`, `p_holm`, `sure` (the adjusted p lies below 1 - confidence) and `same` (one policy)."""
    rows = []
    for first, second in combinations(runs, 2):
        if first.judge != second.judge:
            continue
        if paired := compare(first.rows(), second.rows(), confidence):
            same = bool(first.weights) and first.weights == second.weights
            rows.append({"first": first.name, "second": second.name, "same": same, **paired})
    if rows:
        for row, p_value in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
            row |= {"p_holm": p_value, "sure": bool(p_value < 1 - confidence)}
    return rows


def moved_slices(runs: Sequence[Run], confidence: float) -> list[dict[str, Any]]:
    """Slices in which a run surely does better or worse than the best one.

    The sign test of a slice is one-sided and Holm-adjusted over the slices of one pair of runs; here it is
    also adjusted (Bonferroni) for both directions and for the number of pairs.

    Returns:
        `kind`, `slice`, `run`, `against`, `rate` and `other` (of both), `difference`, `n`, `p_value`
        (adjusted) and `rose`, the clearest first.
    """
    best, *others = runs
    times, moved = 2 * len(others), []
    for run in others:
        if run.judge != best.judge:
            continue
        for rose, (worse, better) in {False: (run, best), True: (best, run)}.items():
            tables = compare_slices(worse.rows(), better.rows(), best.topics, best.writers, confidence)
            for kind, row in [(kind, row) for kind, table in tables.items() for row in table]:
                p_value = min(1.0, row["p_value"] * times)
                if p_value >= 1 - confidence:
                    continue
                rates = (row["rate"], row["rate"] - row["difference"])
                moved.append(
                    {"kind": kind, "slice": row["name"], "run": run.name, "against": best.name, "n": row["n"]}
                    | {
                        "rate": rates[rose],
                        "other": rates[not rose],
                        "difference": rates[rose] - rates[not rose],
                    }
                    | {"p_value": p_value, "rose": rose}
                )
    return sorted(moved, key=lambda row: row["p_value"])


def side_by_side(runs: Sequence[Run], most: int = SHOWN) -> list[dict[str, Any]]:
    """Outputs for the prompts that all runs were judged on: those on which the runs' judgments differ first.

    Returns:
        `prompt`, `messages` of a conversation, `reference`, `outputs` (name, text, preferred), `differ`; in
        the order of the prompts.
    """
    judged = {run.name: preference_by_prompt(run.rows()) for run in runs}
    texts = {run.name: {row["prompt"]: row for row in run.rows()} for run in runs}
    first = runs[0].name
    shared = sorted(prompt for prompt in judged[first] if all(prompt in judged[run.name] for run in runs))
    samples = []
    for prompt in shared:
        outputs = [
            {"name": name, "text": texts[name][prompt]["output"], "preferred": judged[name][prompt]}
            for name in judged
        ]
        row = texts[first][prompt]
        samples.append(
            {
                "prompt": prompt,
                "messages": row.get("messages"),
                "reference": row["reference"],
                "outputs": outputs,
                "differ": len({output["preferred"] for output in outputs}) > 1,
            }
        )
    return sorted(samples, key=lambda sample: not sample["differ"])[:most]


def warnings_about(runs: Sequence[Run]) -> list[str]:
    """What makes the rates of these runs hard to compare, one sentence each."""
    sentences = []
    judges = {run.judge for run in runs}
    if len(judges) > 1:
        sentences.append(
            f"They were judged by different judges ({', '.join(sorted(judges))}): rates are not comparable."
        )
    prompts = [set(preference_by_prompt(run.rows())) for run in runs]
    shared = set.intersection(*prompts)
    if any(prompt_set != shared for prompt_set in prompts):
        sentences.append(f"Not all were judged on the same prompts: {len(shared)} prompts are shared by all.")
    for row in differing({run.name: {key: run.params.get(key) for key in SAMPLING} for run in runs}):
        by_value: dict[str, list[str]] = {}
        for name, value in row["values"].items():
            by_value.setdefault(str(value), []).append(name)
        values = "; ".join(f"{value} in {', '.join(names)}" for value, names in by_value.items())
        sentences.append(
            f"The judged outputs were not sampled alike ({row['key']}: {values}): a difference need not come "
            "from the training. Compare each run with its own SFT policy too."
        )
    for run in runs:
        trust = first_trust(run.evaluation)
        if trust and not trust["decides"]:
            sentences.append(f"{run.name}: its judge decides nothing: {trust['reason']}.")
    by_weights: dict[str, list[str]] = {}
    for run in runs:
        if run.weights:
            by_weights.setdefault(run.weights, []).append(run.name)
    sentences += [f"The same policy: {', '.join(names)}." for names in by_weights.values() if len(names) > 1]
    return sentences


def verdict_of(runs: Sequence[Run], pairs: Sequence[Mapping[str, Any]], confidence: float) -> list[str]:
    """Which run is best, by how much, and whether that is sure."""
    best = runs[0]
    row = best.evaluation["policies"]["ppo"]
    lines = []
    if any(not (first_trust(run.evaluation) or {"decides": True})["decides"] for run in runs):
        lines.append("This decides nothing: a judge of these runs cannot be believed, see the warnings.")
    lines += [
        f"{best.name} has the highest rate: {rate_text(row)} of n = {row['n']} prompts preferred to the "
        f"reference, judge {best.judge}."
    ]
    if row["low"] <= 0.5 <= row["high"]:
        lines.append("The interval includes one half: it is not shown to be better than the reference.")
    elif row["high"] < 0.5:
        lines.append("The interval lies below one half: the reference is better.")
    against = [pair for pair in pairs if pair["first"] == best.name]
    better = [pair["second"] for pair in against if pair["sure"] and pair["difference"] > 0]
    level = [pair["second"] for pair in against if not pair["sure"]]
    adjusted = f"paired, adjusted for {len(pairs)} comparisons" if len(pairs) > 1 else "paired"
    if better:
        lines.append(f"It is surely better than {', '.join(better)} ({adjusted}).")
    if level:
        lines.append(f"It cannot be told apart from {', '.join(level)} ({adjusted}).")
    if against:
        second = against[0]
        lines.append(f"Ahead of {second['second']}, the next, by {difference_text(second)}.")
    return lines


def _frozen(value: Any) -> Hashable:
    """A text by which values can be compared, lists and dictionaries too; 1 and True stay apart."""
    return f"{type(value).__name__} {value!r}"
