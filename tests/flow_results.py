"""What a flow's stages leave behind, in small."""

from __future__ import annotations

import subprocess

EVALUATION = {
    "judge": {"name": "gold", "kind": "gold"},
    "n": 500,
    "confidence": 0.95,
    "policies": {
        "pretrained": {"rate": 0.1, "low": 0.08, "high": 0.13, "mean_length": 20.0, "kl": None},
        "sft": {"rate": 0.31, "low": 0.27, "high": 0.35, "mean_length": 21.0, "kl": 0.0},
        "ppo": {"rate": 0.66, "low": 0.62, "high": 0.7, "mean_length": 22.0, "kl": 4.25},
    },
}


GATE = {
    "promoted": False,
    "version": 3,
    "rules": [
        {"rule": "interval above 0.5", "held": True, "detail": "0.62 > 0.5"},
        {"rule": "not below the champion", "held": False, "detail": "0.66 < 0.70"},
    ],
    "warnings": ["980 of 1000 prompts are ties"],
}


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout
