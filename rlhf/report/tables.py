"""The tables of the report: from figures to rows of text, which the template shows.

A table is a dictionary: `caption`, `corner` (heading of the first column, empty for none), `columns`, `rows`
of text with the row's name first, a `note` to stand below it, and `wide`: too wide for a phone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.judges.judge import KINDS
from rlhf.measures.display import (
    LABELS,
    difference_text,
    figure_text,
    in_order,
    interval_text,
    level_text,
    number,
    p_text,
    rate_text,
    signed,
)
from rlhf.measures.summary import trust_rows

Table = dict[str, Any]
PHONE = 46  # characters that fit beside each other


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
    rows.append(["reference", "", "", "", "", number(evaluation["reference"]["mean_length"], 1), ""])
    level = level_text(evaluation["confidence"])
    return _table(
        f"Preferred to the reference, by policy: n = {evaluation['n']}, {level} Wilson intervals",
        ["preferred", "wins", "ties", "losses", "words", "KL to SFT"],
        rows,
        corner="policy",
        note="A tie counts one half: preferred = (wins + ties / 2) / n. Two equal texts are a tie. Words: "
        "mean length of an output. KL: nats a sequence, between the next-token distributions along the "
        "policy's own samples.",
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
    return _table(caption, columns, rows, corner="policies", note=note) if rows else None


def champion_table(gate: Mapping[str, Any]) -> Table | None:
    """The policy against the champion, where the gate compared them."""
    met = (gate.get("champion") or {}).get("comparison")
    if not met:
        return None
    rows = [
        [row["name"], difference_text(row), p_text(row["p_better"]), p_text(row["p_worse"])]
        for row in met["measures"]
    ]
    caption = f"Against the champion, version {gate['champion']['version']}, on the same prompts"
    note = "Above 0 is better; p: one-sided, that it is not better, and not worse."
    return _table(caption, ["difference", "p better", "p worse"], rows, corner="measure", note=note)


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
    return _table("Counted by the built-in task's parser", list(axes), rows, corner="text by", note=note)


def judge_tables(evaluation: Mapping[str, Any]) -> list[Table]:
    """Every judge's rates, raw and at equal length, what else is known of them, and whether it may be
    believed; and the judges' agreement, where there are several."""
    shown, agree, powered, measured = [], [], [], []
    for name, judge in evaluation.get("judges", {}).items():
        kind = name if name == judge["kind"] else f"{name} ({KINDS[judge['kind']]})"
        for policy, row in in_order(judge["policies"]).items():
            label = LABELS.get(policy, policy)
            shown.append(
                [f"{label}, {kind}", rate_text(row), rate_text(row["length_controlled"]), str(row["n"])]
            )
            if corrected := row.get("corrected"):
                powered.append([f"{name}, its errors known", label, rate_text(corrected), "", ""])
        if judge.get("trust", {}).get("controls"):
            caption = f"Can the judge {name} be believed? {judge['trust']['reason']}"
            measured.append(_table(caption, ["rate", "n", "lower end above", ""], trust_rows(judge)))
        for other, row in judge.get("agreement", {}).items():
            if row:
                parts = [figure_text(row, figure) for figure in ("raw", "alpha", "kappa")]
                agree.append([f"{name} with {other}", *parts, str(row["n"])])
        for other, rows in judge.get("prediction_powered", {}).items():
            powered += [
                [
                    f"{name} helped by {other}",
                    LABELS.get(policy, policy),
                    rate_text(row),
                    str(row["n_human"]),
                    f"{row['effective']:.0f}",
                ]
                for policy, row in in_order(rows).items()
                if row
            ]
    columns = ["preferred", "at equal length", "n"]
    tables = (
        [_table("Preferred to the reference, by every judge", columns, shown, corner="policy, judge")]
        if shown
        else []
    )
    if agree:
        columns = ["same answer", "alpha", "kappa", "n"]
        tables.append(_table("Do the judges agree?", columns, agree, corner="judges"))
    if powered:
        columns = ["policy", "preferred", "judged by people", "worth, in judgments by people"]
        tables.append(_table("The rate that labelers would give, by a model", columns, powered))
    return tables + measured


def slice_tables(evaluation: Mapping[str, Any]) -> list[Table]:
    """PPO by slice, and whether it fell against SFT there."""
    return [
        _table(
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
        [LABELS.get(policy, policy)]
        + [number(row[what]["share"]) for what in ("banned", "personal_data", "repetitive", "empty")]
        + [str(row["n"])]
        for policy, row in in_order(evaluation.get("safety", {})).items()
    ]
    columns = ["banned words", "personal data", "repetitive", "no text", "n"]
    return _table("Share of outputs with findings", columns, rows, corner="text by") if rows else None


def look_table(evaluation: Mapping[str, Any]) -> Table | None:
    """The looks along PPO."""
    along = evaluation.get("overoptimisation")
    if not along:
        return None
    best_of = (along.get("best_of_n") or {"looks": []})["looks"]
    named = [(str(look["update"]), look) for look in along["looks"]]
    named += [(f"best of {look['n']} by SFT", look) for look in best_of if look["n"] > 1]
    rows = [[name, number(look["kl"], 2), signed(look["score"], 2), rate_text(look)] for name, look in named]
    caption = f"Held-out prompts along PPO: judge {along['judge']['name']}, n = {along['n']}"
    return _table(caption, ["KL, nats", "reward", "preferred"], rows, corner="update")


def reward_tables(quality: Mapping[str, Any], people: str) -> list[Table]:
    """Accuracy by labeler group and the figures of calibration and length bias."""
    if not quality:
        return []
    rows = [[group, _estimate(row), str(row["n"])] for group, row in quality["accuracy"].items()]
    caption = f"Accuracy on held-out rankings {people}"
    tables = [_table(caption, ["accuracy", "pairs"], rows, corner="labelers")]
    figures = [
        ["expected calibration error", number(quality["calibration"]["ece"])],
        ["Brier score (a coin: 0.250)", number(quality["calibration"]["brier"])],
    ]
    for key, words in (
        ("model", "the model prefers the longer text"),
        ("labelers", "labelers prefer the longer text"),
        ("difference", "difference"),
        ("shorter_right", "right where labelers prefer the shorter"),
    ):
        if row := (quality["length_bias"] or {}).get(key):
            figures.append([words, _estimate(row)])
    if quality["agreement"]:
        pairs = quality["agreement"]
        low, high = quality["ceiling"]
        figures.append([f"two labelers agree ({pairs['pairs']} pairs)", number(pairs["value"])])
        figures.append(["so the best model would reach", interval_text({"low": low, "high": high})])
    return [*tables, _table("Calibration, length bias, ceiling", [], figures)]


def tables(values: Mapping[str, Any], caption: str) -> list[Table]:
    """Metrics as tables to show: single numbers in one, and one for each group of groups."""
    single = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    shown: list[Table] = []
    if single:
        rows = [[_words(key), _text(value)] for key, value in single.items()]
        shown.append(_table(caption, [], rows))
    nested = {key: row for key, row in values.items() if isinstance(row, Mapping)}
    flat = {key: row for key, row in nested.items() if not any(isinstance(v, Mapping) for v in row.values())}
    if flat:
        columns = list(dict.fromkeys(column for row in flat.values() for column in row))
        rows = [[_words(key), *(_text(row.get(c, "")) for c in columns)] for key, row in flat.items()]
        shown.append(_table(caption, [_words(column) for column in columns], rows))
    for key, value in nested.items():
        if key not in flat:
            shown += tables(value, f"{caption}: {_words(key)}")
    return shown


def _words(key: str) -> str:
    return key.replace("_", " ")


def _text(value: Any) -> str:
    return number(value) if value is None or isinstance(value, float) else str(value)


def _estimate(row: Mapping[str, Any]) -> str:
    return rate_text({"rate": row["value"], "low": row["low"], "high": row["high"]})


def _table(
    caption: str, columns: Sequence[str], rows: list[list[str]], corner: str = "", note: str = ""
) -> Table:
    lines = [[corner, *columns], *rows] if columns else rows
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    wide = sum(widths) + 2 * len(widths) > PHONE
    return {
        "caption": caption,
        "corner": corner,
        "columns": list(columns),
        "rows": rows,
        "note": note,
        "wide": wide,
    }
