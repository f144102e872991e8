"""The settings of `rlhf.rl.trainer.PPOTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from rlhf.compute import processes
from rlhf.data.errors import DataError


@dataclass
class PPOConfig(TrainingArguments):
    """Settings of `PPOTrainer`; inherited settings keep their meaning unless said otherwise.

    `max_steps`, `gradient_accumulation_steps`, `save_steps` and the logging strategy follow from the others.
    Batch sizes are over all processes.

    Raises:
        DataError: a value out of its bounds, or values that contradict each other.
    """

    learning_rate: float = field(default=3e-6, metadata={"help": "Peak learning rate (Huang et al. 2024)."})
    adam_epsilon: float = field(default=1e-5, metadata={"help": "Adam's epsilon (Huang et al. 2024)."})
    num_updates: int = field(default=100, metadata={"help": "Rollout-and-optimise rounds."})
    batch_size: int = field(default=64, metadata={"help": "Episodes an update."})
    num_mini_batches: int = field(default=1, metadata={"help": "Optimiser steps an epoch of an update."})
    num_ppo_epochs: int = field(default=4, metadata={"help": "Passes over the episodes of an update."})
    micro_batch_tokens: int = field(
        default=2048,
        metadata={"help": "Tokens, padding included, that a forward and backward pass holds on one device."},
    )
    rollout_batch_tokens: int = field(
        default=8192, metadata={"help": "Tokens of the prompts sampled side by side on one device."}
    )
    save_updates: int = field(default=10, metadata={"help": "Updates between checkpoints."})
    response_length: int = field(default=53, metadata={"help": "Longest response in tokens."})
    max_prompt_length: int | None = field(
        default=None,
        metadata={
            "help": "Longer prompts lose their start; None refuses prompts that the context cannot hold."
        },
    )
    stop_tokens: list[str] = field(
        default_factory=list, metadata={"help": "Tokens that end a response besides EOS."}
    )
    temperature: float = field(
        default=0.7, metadata={"help": "Sampling temperature; logits are divided by it."}
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each reward in the score; None weighs each with 1."}
    )
    missing_eos: float | None = field(
        default=-1.0,
        metadata={"help": "What a response that no stop token ended scores; None leaves its score."},
    )
    missing_eos_rule: str = field(
        default="replace",
        metadata={"help": "replace: the score becomes missing_eos; add: missing_eos is added to it."},
    )
    kl_coef: float = field(
        default=0.05, metadata={"help": "Weight of the per-token KL penalty in the reward."}
    )
    kl_estimator: str = field(default="k1", metadata={"help": "k1, k2 or k3 (Schulman 2020)."})
    kl_target: float | None = field(
        default=None,
        metadata={"help": "KL in nats a response that the adaptive controller holds; None keeps kl_coef."},
    )
    kl_horizon: float = field(default=10_000, metadata={"help": "Episodes over which the controller acts."})
    early_stop_kl: float | None = field(
        default=None,
        metadata={
            "help": "The rest of an update is skipped once a step's approximate KL to the rollout exceeds it."
        },
    )
    gamma: float = field(default=1.0, metadata={"help": "Discount."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of generalised advantage estimation."})
    cliprange: float = field(default=0.2, metadata={"help": "Ratio clip."})
    cliprange_value: float = field(default=0.2, metadata={"help": "Value clip."})
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    value_warmup: int = field(
        default=0,
        metadata={
            "help": "Updates at the start in which the value network alone learns, with its loss unclipped."
        },
    )
    whiten_rewards: bool = field(
        default=False, metadata={"help": "Scale token rewards to variance 1 over the batch, mean kept."}
    )
    whiten_advantages: bool = field(
        default=True, metadata={"help": "Whiten advantages over the whole batch."}
    )
    ptx_coef: float = field(
        default=0.0, metadata={"help": "Weight of the language-modelling loss on ptx_texts (PPO-ptx)."}
    )
    ptx_batch_size: int = field(default=64, metadata={"help": "Texts of that loss an optimiser step."})
    freeze_layers: int = field(
        default=0,
        metadata={"help": "The embeddings and this many first layers of both networks stay as they are."},
    )
    precision: str = field(
        default="auto",
        metadata={
            "help": "fp32, bf16 or auto: bf16 for GPUs that have it, and wide models on CPUs fast in it."
        },
    )

    def __post_init__(self) -> None:
        at_least_1 = (
            "num_updates batch_size num_mini_batches num_ppo_epochs micro_batch_tokens rollout_batch_tokens "
            "save_updates response_length max_prompt_length ptx_batch_size"
        )
        above_0 = "temperature kl_target kl_horizon early_stop_kl cliprange cliprange_value"
        for names, fits, rule in (
            (at_least_1, lambda value: value >= 1, "at least 1"),
            (above_0, lambda value: value > 0, "above 0"),
            ("kl_coef ptx_coef freeze_layers value_warmup", lambda value: value >= 0, "at least 0"),
        ):
            for name in names.split():
                value = getattr(self, name)
                if value is not None and not fits(value):
                    raise DataError(f"{name} is {value}; it must be {rule}")
        if self.batch_size % self.num_mini_batches:
            raise DataError(
                f"batch_size {self.batch_size} is not divisible by num_mini_batches {self.num_mini_batches}"
            )
        for name, choices in (
            ("kl_estimator", ("k1", "k2", "k3")),
            ("missing_eos_rule", ("replace", "add")),
            ("precision", ("auto", "fp32", "bf16")),
        ):
            if getattr(self, name) not in choices:
                raise DataError(f"{name} is {getattr(self, name)!r}; use {', '.join(choices)}")
        self.gradient_accumulation_steps = 1  # PPO makes micro-batches itself
        self.per_device_train_batch_size = 1  # an item of the dataset is the number of a step
        self.max_steps = self.num_updates * self.steps_per_update
        # A checkpoint holds no rollout, so it is written between two updates.
        self.save_strategy = "steps"
        self.save_steps = self.save_updates * self.steps_per_update
        self.logging_strategy = "no"
        self.logging_nan_inf_filter = False  # the trainer stops at a NaN loss
        if processes() > 1 and not torch.accelerator.is_available():
            self.use_cpu = True  # else each CPU process would train alone, and all would write the same files
        super().__post_init__()

    @property
    def steps_per_update(self) -> int:
        """Optimiser steps an update."""
        return self.num_ppo_epochs * self.num_mini_batches
