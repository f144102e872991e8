"""A base model small enough to train in a test, and demonstrations for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.compute import deterministic
from rlhf.models.policy import Policy, save_model
from rlhf.models.scratch import new_model, train_tokenizer

COLOURS = ["red", "green", "blue", "white", "black", "pink", "grey", "gold"]


PROMPTS = [f"TITLE: {a} and {b}\nTL;DR:" for a in COLOURS for b in COLOURS if a != b]


DEMONSTRATIONS = [
    {"prompt": p, "completion": f" {p.split()[1]}.", "split": "validation" if i % 8 == 0 else "train"}
    for i, p in enumerate(PROMPTS)
]

COMPARISONS = [
    {
        "prompt": p,
        "completions": [f" {p.split()[1]}.", " and and.", f" {p.split()[1]} and."],
        "ranking": [1, 2, 2] if i % 2 else [1, 3, 2],
        "labeler_group": "expert",
    }
    for i, p in enumerate(PROMPTS)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """An untrained policy folder."""
    deterministic(0, 1)
    tokenizer = train_tokenizer([d["prompt"] + d["completion"] for d in DEMONSTRATIONS], "word", 300)
    path = tmp_path_factory.mktemp("models") / "base"
    save_model(Policy(new_model("0.1M", tokenizer, 48), tokenizer), path)
    return path


def reward_settings(folder: Path, **more):
    return {
        "checkpoints": folder,
        "seed": 0,
        "epochs": 4,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "save_every": 1000,
    } | more
