"""The report's tables of the judges: what each says, whether they agree, and whether each may be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf.measures.display import LABELS, figure_text, in_order, rate_text
from rlhf.measures.summary import judge_label, trust_rows
from rlhf.report.layout import Table, table


def judge_tables(evaluation: Mapping[str, Any]) -> list[Table]:
    """One table of all judges' rates, one of their agreement, one of the rates that labelers would give, and
    one a judge of what it was measured by; each only where there is something to show."""
    judges = evaluation.get("judges", {})
    rates, agreements, estimates, measured = [], [], [], []
    for key, judge in judges.items():
        rates += _rate_rows(key, judge)
        agreements += _agreement_rows(key, judge)
        estimates += _estimate_rows(key, judge)
        if judge.get("trust", {}).get("controls"):
            caption = f"Can the judge {key} be believed? {judge['trust']['reason']}"
            measured.append(table(caption, ["rate", "n", "lower end above", ""], trust_rows(judge)))
    tables = []
    if rates:
        columns = ["preferred", "at equal length", "n"]
        tables.append(
            table("Preferred to the reference, by every judge", columns, rates, corner="policy, judge")
        )
    if agreements:
        columns = ["same answer", "alpha", "kappa", "n"]
        tables.append(table("Do the judges agree?", columns, agreements, corner="judges"))
    if estimates:
        columns = ["policy", "preferred", "judged by people", "worth, in judgments by people"]
        tables.append(table("The rate that labelers would give, estimated by a model", columns, estimates))
    return tables + measured


def _rate_rows(key: str, judge: Mapping[str, Any]) -> list[list[str]]:
    """A judge's rates by policy, raw and at equal length."""
    label = judge_label({"name": key, "kind": judge["kind"]})
    return [
        [
            f"{LABELS.get(policy, policy)}, {label}",
            rate_text(row),
            rate_text(row["length_controlled"]),
            str(row["n"]),
        ]
        for policy, row in in_order(
            judge["policies"] | ({"human": judge["human"]} if "human" in judge else {})
        ).items()
    ]


def _agreement_rows(key: str, judge: Mapping[str, Any]) -> list[list[str]]:
    """A judge's agreement with others."""
    return [
        [
            f"{key} with {other}",
            *(figure_text(row, figure) for figure in ("raw", "alpha", "kappa")),
            str(row["n"]),
        ]
        for other, row in judge.get("agreement", {}).items()
        if row
    ]


def _estimate_rows(key: str, judge: Mapping[str, Any]) -> list[list[str]]:
    """People's rates as a model's judgments tell them: by its known errors, or beside a few of people's."""
    rows = [
        [f"{key}, corrected for its errors", LABELS.get(policy, policy), rate_text(corrected), "", ""]
        for policy, row in in_order(judge["policies"]).items()
        if (corrected := row.get("corrected"))
    ]
    for model, by_policy in judge.get("prediction_powered", {}).items():
        rows += [
            [
                f"{key} helped by {model}",
                LABELS.get(policy, policy),
                rate_text(row),
                str(row["n_human"]),
                f"{row['effective']:.0f}",
            ]
            for policy, row in in_order(by_policy).items()
            if row
        ]
    return rows
