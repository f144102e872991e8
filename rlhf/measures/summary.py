"""An evaluation for the reader: the verdict as a sentence, and the table of policies for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf.judges.judge import KINDS
from rlhf.measures.deciding_judge import first_trust
from rlhf.measures.display import LABELS, in_order, interval_text, level_text, number, rate_text


def verdict(evaluation: Mapping[str, Any], policy: str = "ppo") -> str:
    """The rate with its interval, n and judge, whether the interval lies above one half, and what went wrong.

    Args:
        evaluation: what stands in metrics/evaluation.json.
        policy: the policy that the sentence is about.
    """
    row, label, trust = evaluation["policies"][policy], LABELS.get(policy, policy), first_trust(evaluation)
    rate = (
        f"{label} is preferred to the reference at a rate of {rate_text(row)} on {evaluation['n']} held-out "
        f"prompts ({level_text(evaluation['confidence'])} interval, {KINDS[evaluation['judge']['kind']]})"
    )
    if trust and not trust["decides"]:  # before the rate: who reads no further shall not take it for a result
        text = f"This decides nothing: {trust['reason']}. By this judge {rate}."
    elif row["low"] > 0.5:
        text = f"{rate}: the interval lies above one half."
    elif row["high"] < 0.5:
        text = f"{rate}: the interval lies below one half."
    else:
        text = f"{rate}: the interval includes one half, so no difference is shown."
    return " ".join(filter(None, (text, hacking_text(evaluation), stopping_text(evaluation))))


def hacking_text(evaluation: Mapping[str, Any]) -> str:
    """A sentence on reward hacking where it was detected, nothing where it was not."""
    hacking = (evaluation.get("overoptimisation") or {}).get("hacking")
    if not hacking or not hacking["found"]:
        return ""
    return (
        f"Reward hacking: from update {hacking['before']} to {hacking['after']} of PPO the preference fell "
        f"by {number(hacking['fall'])} while the reward rose."
    )


def stopping_text(evaluation: Mapping[str, Any]) -> str:
    """A sentence on a run that its early-stopping judge stopped, nothing on others."""
    stopping = evaluation.get("held_out")
    if not stopping or stopping["stopped"] is None:
        return ""
    return (
        f"The early-stopping judge stopped PPO after update {stopping['stopped']}; the weights after update "
        f"{stopping['kept']} are the policy."
    )


def judge_label(judge: Mapping[str, Any]) -> str:
    """Who judged, in a form that does not pass a model or a simulation off as people.

    Args:
        judge: its `name` and `kind`; a judge that is named after its kind needs no name.
    """
    kind = KINDS[judge["kind"]]
    return kind if judge["name"] == judge["kind"] else f"{judge['name']} ({kind})"


def print_table(evaluation: Mapping[str, Any]) -> None:
    """Print the warnings, the table of policies, what models were measured by, and the verdict."""
    from rich.console import Console
    from rich.table import Table

    confidence = level_text(evaluation["confidence"])
    judge = judge_label(evaluation["judge"])
    policies = Table(title=f"Preferred to the reference: n = {evaluation['n']}, {judge}")
    for heading in ("policy", "preferred", f"{confidence} interval", "ties", "words", "KL to SFT"):
        policies.add_column(heading, justify="left" if heading == "policy" else "right")
    for name, row in in_order(evaluation["policies"]).items():
        policies.add_row(
            LABELS.get(name, name),
            number(row["rate"]),
            interval_text(row),
            str(row["ties"]),
            number(row["mean_length"], 1),
            number(row["kl"], 2),
        )
    if human := evaluation.get("human"):
        ties, words = str(human["ties"]), number(human["mean_length"], 1)
        policies.add_row(LABELS["human"], number(human["rate"]), interval_text(human), ties, words, "")
    console = Console(highlight=False)
    for warning in evaluation["warnings"]:
        console.print(f"warning: {warning}", soft_wrap=True, markup=False)
    console.print(policies)
    for key, entry in evaluation.get("judges", {}).items():
        if entry["kind"] == "model" and "trust" in entry:
            measured = Table(title=f"Can the judge {key} be believed?", caption=entry["trust"]["reason"])
            for heading in ("on held-out prompts", "rate", "n", "must exceed", ""):
                measured.add_column(heading)
            for line in trust_rows(entry):
                measured.add_row(*line)
            console.print(measured)
    console.print(verdict(evaluation), soft_wrap=True)


def trust_rows(judge: Mapping[str, Any]) -> list[list[str]]:
    """What a judge was measured by: check, rate with its interval, n, what the lower end must exceed, and
    whether it passed.

    Args:
        judge: its entry under `judges` of metrics/evaluation.json.
    """
    trust = judge["trust"]
    checks = [*([trust["accuracy"]] if trust["accuracy"] else []), *trust["controls"]]
    result = {True: "passed", False: "FAILED"}
    return [
        [row["words"], rate_text(row), str(row["n"]), f"{row['threshold']:g}", result[row["passed"]]]
        for row in checks
    ]
