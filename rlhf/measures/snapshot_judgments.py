"""A judge reads PPO's evaluation snapshots: the preference beside the reward, along PPO and for best-of-n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rlhf.judges.judge import Judge, Row, blind_pairs
from rlhf.measures.by_prompt import points_by_prompt
from rlhf.measures.overoptimisation import Form, find_hacking, fit_gao
from rlhf.measures.rates import wilson


def judge_snapshots(
    judge: Judge, rows: Sequence[Row], confidence: float, tolerance: float, seed: int
) -> dict[str, Any] | None:
    """Preference against the reward model's score along PPO and best-of-n, with the fits of Gao et al. 2022.

    Args:
        judge: any but people, who have not seen these outputs.
        rows: of the contract SNAPSHOT.
        confidence, tolerance: see `rlhf.measures.overoptimisation.find_hacking`.
        seed: of the order in which the judge sees the texts.

    Returns:
        `judge`, `n`, `looks` (the snapshots of PPO: update, kl, score, rate, low, high), `fit` (None where
        the policy hardly moved), `hacking`, and `best_of_n` with `looks` (n, kl, score, rate, low, high) and
        `fit`, None where there are none; None for fewer than two snapshots or prompts.
    """
    snapshots: dict[tuple[int, int], list[Row]] = {}  # by update and n
    for row in rows:
        snapshots.setdefault((row["update"], row["n"]), []).append(row)
    by_prompt = {key: points_by_prompt(_judged(judge, part, seed)) for key, part in snapshots.items()}
    first = next(iter(by_prompt.values()), {})
    shared = [prompt for prompt in first if all(prompt in points for points in by_prompt.values())]
    along = [key for key in snapshots if key[1] == 1]
    best_of = sorted(key for key in snapshots if key[0] == 0)
    if len(along) < 2 or len(shared) < 2:
        return None
    points = {key: [by_prompt[key][prompt] for prompt in shared] for key in snapshots}
    summary = {key: _summary(part, points[key], confidence) for key, part in snapshots.items()}
    hacking = find_hacking(
        [summary[key]["score"] for key in along], [points[key] for key in along], confidence, tolerance
    )
    return {
        "judge": {"name": judge.name, "kind": judge.kind},
        "n": len(shared),
        "looks": [{"update": key[0]} | summary[key] for key in along],
        "fit": _fit([summary[key] for key in along], "rl"),
        "hacking": hacking.as_dict([update for update, _ in along]),
        "best_of_n": {
            "looks": [{"n": key[1]} | summary[key] for key in best_of],
            "fit": _fit([summary[key] for key in best_of], "best-of-n"),
        }
        if len(best_of) > 1
        else None,
    }


def _judged(judge: Judge, snapshot: Sequence[Row], seed: int) -> list[Row]:
    references, outputs = ([row[column] for row in snapshot] for column in ("reference", "output"))
    update, n, source = snapshot[0]["update"], snapshot[0]["n"], snapshot[0]["source"]
    name = f"ppo@{update}" if n == 1 else f"best-of-{n}"
    return judge.judge(
        blind_pairs(name, snapshot, references, outputs, split="validation", source=source, seed=seed)
    )


def _summary(snapshot: Sequence[Row], points: Sequence[float], confidence: float) -> dict[str, float]:
    low, high = wilson(points, confidence)
    distance, score = (fmean(row[key] for row in snapshot) for key in ("kl", "score"))
    return {"kl": max(0.0, distance), "score": score, "rate": fmean(points), "low": low, "high": high}


def _fit(summaries: Sequence[Mapping[str, float]], form: Form) -> dict[str, Any] | None:
    """The curve through the gains over the first snapshot; None without two different distances above 0."""
    kl = [summary["kl"] for summary in summaries]
    if len({value for value in kl if value > 0}) < 2:
        return None
    start = summaries[0]["rate"]
    return fit_gao(kl, [summary["rate"] - start for summary in summaries], form).as_dict()
