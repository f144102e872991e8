"""The verdict on a run: how often each policy is preferred to the reference, what the gate decided, and where
the result stands in the registry now."""

from __future__ import annotations

from pathlib import Path

from flows.known_standing import known_standing
from rlhf.data.files import read_json
from rlhf.measures.display import LABELS, in_order, interval_text, level_text, number
from rlhf.measures.summary import judge_label
from rlhf.report.markdown import bullets, table


def verdict_rows(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: how often each policy was preferred to the reference."""
    evaluation = read_json(folder / "metrics/evaluation.json")
    judge, level = evaluation["judge"], level_text(evaluation["confidence"])
    header = ["policy", "preferred to the reference", f"{level} interval", "n", "judge", "KL, nats"]
    rows = [
        [
            LABELS.get(policy, policy),
            number(row["rate"]),
            interval_text(row),
            str(evaluation["n"]),
            judge_label(judge),
            number(row.get("kl"), 2),
        ]
        for policy, row in in_order(evaluation["policies"]).items()
    ]
    return header, rows


def verdict_figures(folder: Path) -> dict[str, float]:
    """The verdict as numbers: `<policy>/rate`, `/low`, `/high`, `n`, and of a run that came to the gate
    `promoted` and `model_version`."""
    evaluation = read_json(folder / "metrics/evaluation.json")
    register = folder / "runs/register.json"
    gate = read_json(register).get("gate", {}) if register.exists() else {}
    figures = {
        f"{name}/{figure}": row[figure]
        for name, row in evaluation["policies"].items()
        for figure in ("rate", "low", "high")
    }
    figures["n"] = float(evaluation["n"])
    if gate:
        figures |= {"promoted": float(gate["promoted"]), "model_version": float(gate["version"])}
    return figures


def gate_lines(folder: Path) -> list[str]:
    """Where the result stands in the registry, then what failed, the warnings and what held, one line each.

    Raises:
        StageError: the registry cannot be asked.
    """
    registered = known_standing(folder)
    if registered is None:
        return ["not registered"]
    gate = read_json(folder / "runs/register.json")["gate"]
    failed = [rule for rule in gate["rules"] if not rule["held"]]
    held = [rule for rule in gate["rules"] if rule["held"]]
    return [
        str(registered),
        *(f"FAILED: {rule['rule']} ({rule['detail']})" for rule in failed),
        *(f"warning: {line}" for line in gate["warnings"]),
        *(f"held: {rule['rule']} ({rule['detail']})" for rule in held),
    ]


def verdict_markdown(folder: Path) -> str:
    """Table and gate as Markdown, for the Prefect artifact."""
    return table(*verdict_rows(folder)) + "\n\n" + bullets(gate_lines(folder))


def show_verdict(folder: Path, where: dict[str, str]) -> None:
    """Print the table, the gate, and where to look further: what there is -> where it is."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    header, rows = verdict_rows(folder)
    shown = Table(*header, box=box.SIMPLE_HEAD, title="Preferred to the reference")
    for row in rows:
        shown.add_row(*map(escape, row))
    console.print(shown)
    first, *rules = gate_lines(folder)
    console.print(first, markup=False)
    for rule in rules:
        console.print(f"  {rule}", markup=False)
    for what, place in where.items():
        console.print(f"{what + ':':<12}{place}", markup=False)
