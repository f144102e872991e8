"""Parameters of PPO and of its rewards."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator

from rlhf.settings.section import Section, param
from rlhf.settings.training import PRECISION, Precision


class RewardFunctions(Section):
    """Automated rewards beside the reward model; a weight of 0 leaves one out."""

    length_weight: float = param(
        0, "reward of each word more or fewer than length_target, times -1", ge=0, le=100
    )
    length_target: int = param(20, "words of a good response", "words", ge=1, le=100_000)
    repetition_weight: float = param(0, "penalty of the share of repeated word trigrams", ge=0, le=100)
    format_weight: float = param(0, "reward of a response that matches format_pattern", ge=0, le=100)
    format_pattern: str = param(".*[.!?]", "regular expression of a whole response")
    banned_weight: float = param(0, "penalty of each banned word", ge=0, le=100)
    banned_words: list[str] = param([], "words that a response should not hold")

    @field_validator("format_pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"it is no regular expression ({error})") from None
        return pattern


class Ppo(Section):
    """Proximal policy optimisation against the reward model."""

    accelerate: str | None = param(
        None, "config file of accelerate for several processes, not DeepSpeed's; null for DDP"
    )
    updates: int = param(12, "rollout-and-optimise rounds", "updates", ge=1, le=10_000_000)
    batch_size: int = param(128, "episodes an update", "episodes", ge=2, le=65_536)
    micro_batch_tokens: int = param(
        4096, "tokens, padding included, of a forward and backward pass", "tokens", ge=1, le=10_000_000
    )
    mini_batches: int = param(2, "optimiser steps an epoch of an update", "steps", ge=1, le=1024)
    epochs: int = param(4, "passes over the episodes of an update", "epochs", ge=1, le=100)
    learning_rate: float = param(5e-4, "peak learning rate, linear decay", gt=0, le=1)
    response_length: int = param(48, "longest response", "tokens", ge=1, le=131_072)
    max_prompt_length: int | None = param(
        None,
        "longer prompts lose their start; null refuses what the context cannot hold",
        "tokens",
        ge=1,
        le=10_000_000,
    )
    stop_tokens: list[str] = param([], "tokens that end a response besides EOS")
    temperature: float = param(0.7, "sampling temperature", gt=0, le=5)
    reward_model: Literal["trained", "given"] = param(
        "trained", "what scores: models/reward, or the folder data/reward-model, on any tokenizer"
    )
    value: Literal["separate", "head"] = param(
        "separate", "separate: a value network from the reward model; head: on the policy's hidden states"
    )
    freeze_layers: int = param(
        0, "the embeddings and this many first layers stay as they are", "layers", ge=0, le=1024
    )
    kl_coef: float = param(0.05, "weight of the per-token KL penalty in the reward", ge=0, le=10)
    kl_estimator: Literal["k1", "k2", "k3"] = param("k1", "estimator of the KL (Schulman 2020)")
    kl_target: float | None = param(
        None,
        "KL that an adaptive kl_coef holds (Ziegler et al. 2019); null keeps kl_coef",
        "nats",
        gt=0,
        le=1000,
    )
    kl_horizon: float = param(10_000, "episodes over which the controller acts", "episodes", gt=0, le=1e9)
    early_stop_kl: float | None = param(
        None,
        "an update ends early once a step's KL to the rollout exceeds it; null never",
        "nats",
        gt=0,
        le=1000,
    )
    reward_weight: float = param(1.0, "weight of the reward model in the score", ge=0, le=100)
    reward_functions: RewardFunctions = RewardFunctions()
    missing_eos: float | None = param(
        -1.0, "what a response without EOS scores; null keeps its score", ge=-1000, le=1000
    )
    missing_eos_rule: Literal["replace", "add"] = param(
        "replace", "replace: missing_eos is the score; add: it is added to the score"
    )
    whiten_rewards: bool = param(False, "scale token rewards to variance 1 over the batch")
    whiten_advantages: bool = param(True, "whiten advantages over the whole batch")
    gamma: float = param(1.0, "discount", ge=0, le=1)
    lam: float = param(0.95, "lambda of generalised advantage estimation", ge=0, le=1)
    clip: float = param(0.2, "ratio clip", gt=0, le=10)
    value_clip: float = param(0.2, "value clip", gt=0, le=1000)
    value_coef: float = param(0.1, "weight of the value loss", ge=0, le=100)
    value_warmup: int = param(
        0,
        "updates at the start in which only a separate value network learns, its loss unclipped",
        "updates",
        ge=0,
        le=1000,
    )
    max_grad_norm: float = param(1.0, "gradient-norm clip", gt=0, le=1000)
    ptx_coef: float = param(
        0.0,
        "weight of the language-modelling loss on demonstrations, PPO-ptx (Ouyang et al. 2022)",
        ge=0,
        le=1000,
    )
    ptx_batch_size: int = param(32, "demonstrations of that loss an optimiser step", "texts", ge=1, le=65_536)
    precision: Precision = param("auto", PRECISION)
    save_every: int = param(10, "updates between checkpoints", "updates", ge=1, le=1_000_000)
    snapshot_every: int = param(
        3, "updates between evaluation snapshots; 0 for none", "updates", ge=0, le=1_000_000
    )
    snapshot_prompts: int = param(
        200, "validation prompts of a snapshot, at most", "prompts", ge=2, le=100_000
    )
    best_of_n: int = param(
        4,
        "the snapshots show best-of-n of SFT beside PPO, n = 1, 2, 4 ... up to this; 1 for none",
        "samples",
        ge=1,
        le=1024,
    )
    judge: Literal["reward-model", "simulated"] = param(
        "reward-model",
        "who judges the snapshots while PPO runs: reward-model: the judge of that name, if there is one "
        "(prepare.judge_share); simulated: simulated experts, in place of people, on the built-in task only",
    )
    judge_tolerance: float | None = param(
        0.02,
        "a fall of that judge's preference under a rising reward that does not yet stop PPO, as a rate; the "
        "snapshot that it prefers is kept; null asks nobody",
        ge=0,
        le=1,
    )
