"""Parameters of learning from given data: supervised fine-tuning and the reward model."""

from __future__ import annotations

from typing import Literal

from rlhf.settings.section import Section, param

Precision = Literal["auto", "fp32", "bf16"]
PRECISION = "arithmetic; auto: bf16 on GPUs that have it and for wide models on CPUs fast in it"


class Training(Section):
    """What every training has in common."""

    batch_size: int = param(32, "sequences an optimiser step", "sequences", ge=1, le=65_536)
    learning_rate: float = param(1e-3, "peak learning rate", gt=0, le=1)
    save_every: int = param(100, "optimiser steps between checkpoints", "steps", ge=1, le=1_000_000)
    precision: Precision = param("auto", PRECISION)


class Sft(Training):
    """Supervised fine-tuning on the demonstrations."""

    epochs: float = param(1.5, "passes over the demonstrations", "epochs", gt=0, le=1000)
    learning_rate: float = param(2e-3, "peak learning rate", gt=0, le=1)
    learn: Literal["last", "all"] = param(
        "last", "which assistant turns of a demonstration are learnt: its completion, or those before it too"
    )
    accelerate: str | None = param(
        None, "config file of accelerate for several processes, see deploy/accelerate; null for DDP"
    )


class Reward(Training):
    """The reward model, from rankings."""

    accelerate: str | None = param(
        None, "config file of accelerate for several processes, see deploy/accelerate; null for DDP"
    )
    epochs: float = param(2, "passes over the rankings", "epochs", gt=0, le=1000)
    batch_size: int = param(
        16, "prompts an optimiser step; each brings all pairs of its ranking", "prompts", ge=1, le=65_536
    )
    learning_rate: float = param(1e-3, "peak learning rate", gt=0, le=1)
    labeler_weights: Literal["none", "dawid-skene", "bradley-terry"] = param(
        "none",
        "how much each labeler's rankings count: none: alike; dawid-skene: by accuracy, bradley-terry: by "
        "ability, both estimated from the outputs that several labelers ranked",
    )
    judge_contrast: int = param(
        2,
        "answers to other prompts that the reward-model judge learns to prefer less than each reference of "
        "its split (Liu et al. 2024); 0 for none",
        "answers",
        ge=0,
        le=16,
    )
