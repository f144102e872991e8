"""An evaluation in words: the verdict as a sentence, and the table of policies for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf.judges.judge import KINDS
from rlhf.measures.display import LABELS, in_order, interval_text, level_text, number, rate_text


def verdict(evaluation: Mapping[str, Any], policy: str = "ppo") -> str:
    """One sentence: the rate, its interval, n and judge, and whether the interval lies above one half.

    Args:
        evaluation: what stands in metrics/evaluation.json.
        policy: the policy that the sentence is about.
    """
    row, label, trust = evaluation["policies"][policy], LABELS.get(policy, policy), first_trust(evaluation)
    rate = (
        f"{label} is preferred to the reference at a rate of {rate_text(row)} on {evaluation['n']} "
        f"held-out prompts ({level_text(evaluation['confidence'])} interval, {judge_words(evaluation)})"
    )
    if trust and not trust["decides"]:  # before the rate: who reads no further shall not take it for a result
        words = f"This decides nothing: {trust['reason']}. By this judge {rate}."
    elif row["low"] > 0.5:
        words = f"{rate}: the interval lies above one half."
    elif row["high"] < 0.5:
        words = f"{rate}: the interval lies below one half."
    else:
        words = f"{rate}: the interval includes one half, so no difference is shown."
    return words + hacking_words(evaluation) + stop_words(evaluation)


def first_trust(evaluation: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Whether the judge may be believed whose figures are the evaluation's own; None in an evaluation from
    before judges were measured."""
    judge = evaluation.get("judges", {}).get(evaluation["judge"].get("key"), {})
    trust: Mapping[str, Any] | None = judge.get("trust")
    return trust


def hacking_words(evaluation: Mapping[str, Any]) -> str:
    """A sentence on reward hacking where it was found, nothing where it was not."""
    hacking = (evaluation.get("overoptimisation") or {}).get("hacking")
    if not hacking or not hacking["found"]:
        return ""
    return (
        f" Reward hacking: from update {hacking['before']} to {hacking['after']} of PPO the preference fell "
        f"by {number(hacking['fall'])} while the reward rose."
    )


def stop_words(evaluation: Mapping[str, Any]) -> str:
    """A sentence on a run that the held-out judge stopped, nothing on others."""
    held_out = evaluation.get("held_out")
    if not held_out or held_out["stopped"] is None:
        return ""
    return (
        f" The held-out judge stopped PPO after update {held_out['stopped']}; the weights after update "
        f"{held_out['kept']} are the policy."
    )


def judge_words(evaluation: Mapping[str, Any]) -> str:
    """What judged, in words that do not pass a model or a simulation off as people."""
    return KINDS[evaluation["judge"]["kind"]]


def print_table(evaluation: Mapping[str, Any]) -> None:
    """Print the warnings, the table of policies and the verdict to the terminal."""
    from rich.console import Console
    from rich.table import Table

    confidence = level_text(evaluation["confidence"])
    table = Table(title=f"Preferred to the reference: n = {evaluation['n']}, {judge_words(evaluation)}")
    for heading in ("policy", "preferred", f"{confidence} interval", "ties", "words", "KL to SFT"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for name, row in in_order(evaluation["policies"]).items():
        table.add_row(
            LABELS.get(name, name),
            number(row["rate"]),
            interval_text(row),
            str(row["ties"]),
            number(row["mean_length"], 1),
            number(row["kl"], 2),
        )
    console = Console(highlight=False)
    for warning in evaluation["warnings"]:
        console.print(f"warning: {warning}", soft_wrap=True, markup=False)
    console.print(table)
    for name, judge in evaluation.get("judges", {}).items():
        if judge["kind"] == "model" and "trust" in judge:
            measured = Table(title=f"Can the judge {name} be believed?", caption=judge["trust"]["reason"])
            for heading in ("on held-out prompts", "rate", "n", "must exceed", ""):
                measured.add_column(heading)
            for line in trust_rows(judge):
                measured.add_row(*line)
            console.print(measured)
    console.print(verdict(evaluation), soft_wrap=True)


def trust_rows(judge: Mapping[str, Any]) -> list[list[str]]:
    """What a judge was measured by, from its entry under `judges`: check, rate with its interval, n, what the
    lower end must exceed, and whether it passed."""
    trust = judge["trust"]
    checks = [*([trust["accuracy"]] if trust["accuracy"] else []), *trust["controls"]]
    said = {True: "passed", False: "FAILED"}
    return [
        [row["words"], rate_text(row), str(row["n"]), f"{row['threshold']:g}", said[row["passed"]]]
        for row in checks
    ]
