"""What a run found: how often each policy was preferred to the reference, and what the gate said."""

from __future__ import annotations

from pathlib import Path

from rlhf.contracts import read_json
from rlhf.settings import load_settings

NAMES = {"pretrained": "pretrained", "sft": "SFT", "ppo": "PPO"}


def verdict_rows(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: how often each policy was preferred to the reference."""
    evaluation = read_json(folder / "metrics/evaluation.json")
    judge, count = evaluation["judge"], evaluation["n"]
    percent = load_settings(folder / "params.yaml").evaluate.confidence * 100
    header = ["policy", "preferred to the reference", f"{percent:g} % interval", "n", "judge", "KL, nats"]
    rows = []
    for policy, name in NAMES.items():
        row = evaluation["policies"].get(policy)
        if row:
            interval = f"{row['low']:.3f} – {row['high']:.3f}"
            kl = "" if row.get("kl") is None else f"{row['kl']:.2f}"
            rows.append([name, f"{row['rate']:.3f}", interval, str(count), _judge(judge), kl])
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
    """Whether the policy was promoted, and which rule held or failed, one line each."""
    gate = read_json(folder / "runs/register.json").get("gate", {})
    to = f"version {gate.get('version')} is now @champion" if gate.get("promoted") else "stays @challenger"
    lines = [f"{'promoted' if gate.get('promoted') else 'not promoted'}: {to}"]
    for rule in gate.get("rules", []):
        lines.append(f"{'held' if rule['held'] else 'FAILED'}: {rule['rule']} ({rule['detail']})")
    return lines


def verdict_markdown(folder: Path) -> str:
    """Table and gate as Markdown, for the Prefect artifact."""
    header, rows = verdict_rows(folder)
    table = [header, ["---"] * len(header), *rows]
    text = "\n".join("| " + " | ".join(row) + " |" for row in table)
    return text + "\n\n" + "\n".join(f"- {line}" for line in gate_lines(folder))


def show_verdict(folder: Path, where: dict[str, str]) -> None:
    """Print the table, the gate, and where to look further: what there is -> where it is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    header, rows = verdict_rows(folder)
    table = Table(*header, box=box.SIMPLE_HEAD, title="Preferred to the reference")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    first, *rules = gate_lines(folder)
    console.print(first, markup=False)
    for rule in rules:
        console.print(f"  {rule}", markup=False)
    for what, place in where.items():
        console.print(f"{what + ':':<12}{place}", markup=False)


def _judge(judge: dict[str, str]) -> str:
    name, kind = judge["name"], judge["kind"]
    return name if name == kind else f"{name} ({kind} judge)"
