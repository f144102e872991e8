"""Evaluations made of crafted judgments by the functions that the stage `evaluate` uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf.measures.alpha_spending import RepeatedEvaluation, spent_alpha
from rlhf.measures.evaluation import judges_agree, rates, rounded
from rlhf.measures.gate import decide
from rlhf.measures.slice_comparison import compare_slices
from rlhf.settings import Register

CLEAN = {what: {"count": 0, "share": 0.0} for what in ("banned", "personal_data", "repetitive", "empty")}
HEALTHY = {"found": False, "best": 12, "before": 12, "after": 12, "fall": 0.0, "rise": 0.0, "p_value": 1.0}


def preferences(wins: float, n: int = 1000, ties: float = 0.0) -> list[str]:
    """Judgments of which a share is won and a share tied, spread evenly over any slice of the prompts."""
    order = [(i * 617) % n for i in range(n)]  # 617 is prime to n
    return [
        "output" if place < wins * n else "tie" if place < (wins + ties) * n else "reference"
        for place in order
    ]


def judged(
    preferred: Sequence[str],
    prompts: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    policy: str = "ppo",
) -> list[dict[str, Any]]:
    """Rows of the contract JUDGMENT, as far as the statistics read them."""
    prompts = prompts or [f"question {i}" + " w" * (i % 9) for i in range(len(preferred))]
    outputs = outputs or [" o" * (3 + i % 3) for i in range(len(preferred))]
    return [
        {"prompt": prompt, "reference": " r r r r", "output": output, "preferred": side, "policy": policy}
        for prompt, output, side in zip(prompts, outputs, preferred, strict=True)
    ]


def evaluation(
    ppo: Sequence[dict[str, Any]],
    sft: Sequence[dict[str, Any]] | None = None,
    topics: dict[str, str] | None = None,
    others: dict[str, Sequence[dict[str, Any]]] | None = None,
    kind: str = "gold",
) -> dict[str, Any]:
    """What metrics/evaluation.json holds of these judgments; SFT ties everywhere unless it is given."""
    sft = judged(["tie"] * len(ppo), [row["prompt"] for row in ppo], policy="sft") if sft is None else sft
    tables = {"first": {"ppo": ppo, "sft": sft}}
    tables |= {name: {"ppo": rows} for name, rows in (others or {}).items()}
    judges = {name: {"name": name, "kind": kind} | rates(table, 0.95) for name, table in tables.items()}
    for name in others or {}:
        judges[name]["agreement"] = {"first": judges_agree(tables["first"], tables[name], 0.95)}
    first = judges["first"]
    return rounded(
        {
            "judge": {"key": "first", "name": "first", "kind": kind},
            "n": first["policies"]["ppo"]["n"],
            "confidence": 0.95,
            "policies": first["policies"],
            "comparisons": first["comparisons"],
            "judges": judges,
            "slices": compare_slices(ppo, sft, topics or {}, {}, 0.95),
            "safety": {"ppo": CLEAN, "reference": CLEAN},
            "overoptimisation": {
                "judge": {"name": "first", "kind": kind},
                "n": 200,
                "looks": [{}, {}],
                "hacking": HEALTHY,
            },
        }
    )


def repeated(ppo: Sequence[dict[str, Any]], number: int = 1) -> RepeatedEvaluation:
    """These judgments of PPO as the evaluation with this number of the same test prompts."""
    confidence = 1 - 2 * spent_alpha(number, 0.95)
    row = rates({"ppo": ppo}, confidence)["policies"]["ppo"]
    return RepeatedEvaluation(number, confidence, row["low"], row["length_controlled"]["low"])


def failed(numbers: dict[str, Any], ppo: Sequence[dict[str, Any]], **settings: Any) -> dict[str, str]:
    """The rules that fail, with their details."""
    rules = decide(Register(**settings), numbers, repeated(ppo), None)["rules"]
    return {rule["rule"]: rule["detail"] for rule in rules if not rule["held"]}
