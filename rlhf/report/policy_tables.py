"""The report's tables of the policies: preference, comparisons, slices, checks of outputs, snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf.measures.display import (
    LABELS,
    difference_text,
    in_order,
    level_text,
    number,
    p_text,
    rate_text,
    signed,
)
from rlhf.measures.safety import FINDINGS
from rlhf.report.layout import Table, table


def policy_table(evaluation: Mapping[str, Any]) -> Table:
    """How often each policy is preferred to the reference, and what it writes."""
    rows = [
        [
            LABELS.get(name, name),
            rate_text(row),
            str(row["wins"]),
            str(row["ties"]),
            str(row["losses"]),
            number(row["mean_length"], 1),
            number(row["kl"], 2),
        ]
        for name, row in in_order(evaluation["policies"]).items()
    ]
    note = (
        "A tie counts one half: preferred = (wins + ties / 2) / n. Two equal texts are a tie. Words: "
        "mean length of an output. KL: nats a sequence, between the next-token distributions along the "
        "policy's own samples."
    )
    if human := evaluation.get("human"):
        counts = [str(human[name]) for name in ("wins", "ties", "losses")]
        words = number(human["mean_length"], 1)
        rows.append([LABELS["human"], rate_text(human), *counts, words, ""])
        note += (
            f" Another reference: what a second person wrote for the same prompt, on the {human['n']} "
            "prompts that have several; one half is what a judge without a bias would say."
        )
    rows.append(["reference", "", "", "", "", number(evaluation["reference"]["mean_length"], 1), ""])
    level = level_text(evaluation["confidence"])
    return table(
        f"Preferred to the reference, by policy: n = {evaluation['n']}, {level} Wilson intervals",
        ["preferred", "wins", "ties", "losses", "words", "KL to SFT"],
        rows,
        corner="policy",
        note=note,
    )


def comparison_table(evaluation: Mapping[str, Any]) -> Table | None:
    """The policies against each other on the same prompts."""
    rows = [
        [
            " − ".join(LABELS.get(part, part) for part in name.split("_vs_")),
            difference_text(row),
            str(row["better"]),
            str(row["worse"]),
            p_text(row["p_value"]),
        ]
        for name, row in evaluation["comparisons"].items()
    ]
    note = (
        "Difference of the rates with its paired interval; p from the exact McNemar test of the prompts "
        "judged better against those judged worse."
    )
    caption = "Policies compared on the same prompts"
    columns = ["difference", "better", "worse", "p"]
    return table(caption, columns, rows, corner="policies", note=note) if rows else None


def rouge_tables(evaluation: Mapping[str, Any]) -> list[Table]:
    """ROUGE with the references, of every policy, their differences, and people's own where it is known."""
    scores = evaluation.get("rouge")
    if not scores:
        return []
    columns = ["ROUGE-1", "ROUGE-2", "ROUGE-L"]
    names = {name: name.replace("rouge", "ROUGE-") for name in next(iter(scores["policies"].values()))}
    level = level_text(evaluation["confidence"])

    def means(policies: Mapping[str, Any]) -> list[list[str]]:
        return [
            [
                LABELS.get(policy, policy),
                *(rate_text(row[name] | {"rate": row[name]["mean"]}) for name in names),
            ]
            for policy, row in in_order(policies).items()
        ]

    tables = [
        table(
            f"Words shared with the references (ROUGE, F1): n = {scores['n']}, {level} intervals",
            columns,
            means(scores["policies"])
            + [
                [
                    " − ".join(LABELS.get(part, part) for part in pair.split("_vs_")),
                    *(difference_text(row[name]) for name in names),
                ]
                for pair, row in scores["comparisons"].items()
            ],
            corner="policy",
            note="The best match among the references of a prompt. ROUGE counts words and their order, and "
            "knows no meaning.",
        )
    ]
    if human := scores.get("human"):
        tables.append(
            table(
                f"The same beside a person, n = {human['n']}",
                columns,
                means(human["policies"]),
                corner="text by",
                note="On prompts with several references: the last stands for a person who answers, and all "
                "are matched with the others.",
            )
        )
    return tables


def champion_table(gate: Mapping[str, Any]) -> Table | None:
    """The policy against the champion, where the gate compared them."""
    comparison = (gate.get("champion") or {}).get("comparison")
    if not comparison:
        return None
    rows = [
        [row["name"], difference_text(row), p_text(row["p_better"]), p_text(row["p_worse"])]
        for row in comparison["measures"]
    ]
    caption = f"Against the champion, version {gate['champion']['version']}, on the same prompts"
    note = "Above 0 is better; p: one-sided, that it is not better, and not worse."
    return table(caption, ["difference", "p better", "p worse"], rows, corner="measure", note=note)


def quality_table(evaluation: Mapping[str, Any]) -> Table | None:
    """What the built-in task's parser counts in the texts; None for other tasks."""
    texts = in_order({"reference": evaluation["reference"]} | evaluation["policies"])
    axes = ("coverage", "accuracy", "coherence")
    if not all(axis in row for row in texts.values() for axis in axes):
        return None
    rows = [[LABELS.get(name, name), *(number(row[axis]) for axis in axes)] for name, row in texts.items()]
    note = (
        "Coverage: weighted share of the post's facts that are stated. Accuracy: share of the claims that "
        "are true. Coherence: share of the words that are not stray, boastful or repeated."
    )
    return table("Counted by the built-in task's parser", list(axes), rows, corner="text by", note=note)


def slice_tables(evaluation: Mapping[str, Any]) -> list[Table]:
    """PPO by slice, and whether it fell against SFT there."""
    return [
        table(
            f"PPO by {kind}",
            ["preferred", "n", "against SFT", "p"],
            [
                [
                    row["name"],
                    rate_text(row),
                    str(row["n"]),
                    signed(row["difference"]),
                    p_text(row["p_value"]) + (", fell" if row["fell"] else ""),
                ]
                for row in rows
            ],
            corner=kind,
        )
        for kind, rows in evaluation.get("slices", {}).items()
    ]


def safety_table(evaluation: Mapping[str, Any]) -> Table | None:
    """Shares of outputs with findings, by policy."""
    rows = [
        [LABELS.get(policy, policy), *(number(row[kind]["share"]) for kind in FINDINGS), str(row["n"])]
        for policy, row in in_order(evaluation.get("safety", {})).items()
    ]
    columns = ["banned words", "personal data", "repetitive", "no text", "n"]
    return table("Share of outputs with findings", columns, rows, corner="text by") if rows else None


def snapshot_table(evaluation: Mapping[str, Any]) -> Table | None:
    """The evaluation snapshots along PPO, and best of n samples of SFT beside them."""
    along = evaluation.get("overoptimisation")
    if not along:
        return None
    best_of = (along.get("best_of_n") or {"looks": []})["looks"]
    named = [(str(row["update"]), row) for row in along["looks"]]
    named += [(f"best of {row['n']} by SFT", row) for row in best_of if row["n"] > 1]
    rows = [[name, number(row["kl"], 2), signed(row["score"], 2), rate_text(row)] for name, row in named]
    caption = f"Held-out prompts along PPO: judge {along['judge']['name']}, n = {along['n']}"
    return table(caption, ["KL, nats", "reward", "preferred"], rows, corner="update")
