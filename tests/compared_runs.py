"""Runs with judgments, as a comparison reads them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from rlhf.measures.comparison import Run
from rlhf.measures.rates import preference_rate


def make_run(name: str, preferences: list[str], params: dict[str, Any] | None = None, **fields: Any) -> Run:
    """A run whose PPO outputs got these judgments."""
    rows = [
        {
            "prompt": f"prompt {i:04d}",
            "reference": f"reference {i}",
            "output": f"output {i} of {name}",
            "policy": "ppo",
            "preferred": preferred,
        }
        for i, preferred in enumerate(preferences)
    ]
    rate = preference_rate(preferences)
    evaluation = {
        "judge": {"name": "gold", "kind": "gold"},
        "confidence": 0.95,
        "n": rate.n,
        "policies": {"ppo": {"rate": rate.rate, "low": rate.low, "high": rate.high, "n": rate.n}},
    }
    known = {"seed": 17, "ppo.kl_coef": 0.05} | (params or {})
    return replace(Run(name, evaluation, rows, known, {"data/prepared": "1" * 32}), **fields)


def draw(rate: float, n: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return ["output" if generator.random() < rate else "reference" for _ in range(n)]
