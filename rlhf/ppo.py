"""Proximal policy optimisation for language models, on `transformers.Trainer` and `accelerate`.

The algorithm is that of Ziegler et al. 2019, Stiennon et al. 2020 and Ouyang et al. 2022: a score for the
whole response at its EOS, a per-token KL penalty to a frozen reference inside the reward, generalised
advantage estimation, clipped policy and value losses. `docs/ppo.md` explains every detail and metric.

    trainer = PPOTrainer(policy, reward, PPOConfig("checkpoints"), prompts, tokenizer)
    trainer.train()

One *update* samples `batch_size` episodes and optimises on them `num_ppo_epochs` times, each in
`num_mini_batches` steps; a step's episodes go through the networks in micro-batches of like length. The
trainer's dataset is the sequence of steps: which prompts an update uses, which noise samples the responses
and how episodes are permuted follow from the seed and the update's number alone, so a resumed run repeats
nothing and misses nothing, and processes agree without a word.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from rlhf.contracts import DataError
from rlhf.policy import (
    Batch,
    batch_of,
    check_head,
    chosen_logprobs,
    head_scores,
    hidden_states,
    last_positions,
    response_logprobs,
    sample,
    sequence_scores,
    token_batches,
)
from rlhf.reward import Adapters, RewardModel, score
from rlhf.training import WholeCheckpoints, last_checkpoint

Prompt = str | list[dict[str, str]]  # text, or chat messages
RewardFunction = Callable[[list[Prompt], list[str]], Sequence[float]]


@dataclass
class RewardAdapter:
    """A reward model that is LoRA adapters and a head on the backbone that the policy starts from.

    Attributes:
        adapters: on the policy's body.
        head: [1, width]; shift: what makes references score 0 on average.
    """

    adapters: Adapters
    head: torch.Tensor
    shift: float = 0.0


Reward = PreTrainedModel | RewardModel | RewardAdapter | RewardFunction


@dataclass
class PPOConfig(TrainingArguments):
    """Settings of `PPOTrainer`; what it inherits keeps its meaning unless said otherwise.

    `max_steps`, `gradient_accumulation_steps`, `save_steps` and the logging strategy are derived.
    Batches are counted over all processes.
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
        metadata={"help": "fp32, bf16 or auto: bf16 autocast on GPUs that have it and wide models on AMX."},
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
            ("kl_coef ptx_coef freeze_layers", lambda value: value >= 0, "at least 0"),
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
        self.gradient_accumulation_steps = 1  # micro-batches are counted here, not by the loop
        self.per_device_train_batch_size = 1  # an item of the dataset is the number of a step
        self.max_steps = self.num_updates * self.steps_per_update
        # Between two updates no rollout is in memory, so that is where a checkpoint is whole.
        self.save_strategy = "steps"
        self.save_steps = self.save_updates * self.steps_per_update
        self.logging_strategy = "no"
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
            self.use_cpu = True  # else each of several CPU processes would train alone, on the same files
        super().__post_init__()

    @property
    def steps_per_update(self) -> int:
        """Optimiser steps an update."""
        return self.num_ppo_epochs * self.num_mini_batches


# ---- the arithmetic, on tensors [episodes, tokens] with a mask of the response tokens ----


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens where `mask` is 1."""
    return (values * mask).sum() / mask.sum()


def whiten(values: torch.Tensor, mask: torch.Tensor, *, shift_mean: bool = True) -> torch.Tensor:
    """Scale to variance 1, and shift to mean 0 or keep the mean, over the masked tokens; zero elsewhere."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    white = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (white if shift_mean else white + mean) * mask


def kl_estimate(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, kind: str) -> torch.Tensor:
    """Per-token estimates of KL(policy, reference) from samples (Schulman 2020, "Approximating KL")."""
    ratio = ref_logprobs - logprobs
    if kind == "k1":
        return -ratio
    if kind == "k2":
        return ratio**2 / 2
    return torch.expm1(ratio) - ratio


def token_rewards(scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, kl_coef: float) -> torch.Tensor:
    """The penalty at every response token and the score at the last one: EOS where there is one."""
    rewards = -kl_coef * kl * mask
    last = mask.sum(1).long() - 1
    rewards[torch.arange(len(scores)), last] += scores
    return rewards


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns (Schulman et al. 2016); an episode ends after its last response token."""
    advantages = torch.zeros_like(rewards)
    running = torch.zeros(len(rewards), dtype=rewards.dtype, device=rewards.device)
    for t in reversed(range(rewards.shape[1])):
        following = values[:, t + 1] * mask[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        advantages[:, t] = running
    return advantages, (advantages + values) * mask


def policy_loss(ratio: torch.Tensor, advantages: torch.Tensor, clip: float) -> torch.Tensor:
    """Per-token clipped policy loss (Schulman et al. 2017, eq. 7), to be minimised."""
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))


def value_loss(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """Per-token clipped value loss, half the larger square."""
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def adapted_kl_coef(kl_coef: float, kl: float, target: float, episodes: int, horizon: float) -> float:
    """The next coefficient of the adaptive controller (Ziegler et al. 2019, section 2.2)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / horizon)


# ---- models ----


class PolicyAndValue(nn.Module):
    """The networks that learn, as one module for one optimiser.

    Args:
        policy: the causal language model.
        value: a one-label sequence-classification model, or None for a head on the policy's hidden states.
        dtype: of the arithmetic.
    """

    def __init__(self, policy: Any, value: Any | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.policy, self.value, self.dtype = policy, value, dtype
        if value is None:
            self.value_head = nn.Linear(policy.config.hidden_size, 1, dtype=torch.float32)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    def forward(
        self,
        batch: Batch,
        temperature: float,
        *,
        policy: bool = True,
        value: bool = True,
        with_entropy: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities, entropies and values at the response tokens, each [tokens].

        What `policy` or `value` leaves out is zero; on one backbone the value needs the policy.
        """
        logprobs = entropy = values = torch.zeros(batch.targets.shape, device=batch.ids.device)
        with autocast(batch.ids.device, self.dtype):
            if policy:
                states = hidden_states(self.policy, batch.ids, batch.before)
                logprobs, entropy = chosen_logprobs(
                    self.policy, states, batch.targets, temperature, with_entropy=with_entropy
                )
            if value and self.value is None:
                values = self.value_head(states.float()).squeeze(-1).float()
            elif value:
                values = head_scores(self.value, hidden_states(self.value, batch.ids, batch.before))
        return logprobs, entropy, values

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Have both networks compute their layers again for the gradient."""
        for network in (self.policy, self.value):
            if network is not None:
                network.gradient_checkpointing_enable(*args, **kwargs)


def autocast(device: torch.device, dtype: torch.dtype) -> Any:
    """Autocast to `dtype`, nothing for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def arithmetic(precision: str, device: torch.device, width: int) -> torch.dtype:
    """The dtype that `precision` means for a model of this width on this device.

    On CPUs bf16 pays with AMX tiles only: AVX512-bf16 alone was slower than fp32 (dev/LOG.md), and narrow
    models spend their time elsewhere.
    """
    if precision == "auto":
        if device.type == "cuda":
            good = torch.cuda.is_bf16_supported()
        else:
            good = torch.cpu._is_amx_tile_supported() and width >= 256
        precision = "bf16" if good else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


@dataclass
class Rollout:
    """The episodes of one update.

    Attributes:
        rows: prompt and response ids of each episode; starts: where its response begins.
        mask: response tokens up to and including the stop token, [batch, longest response].
        logprobs, values, advantages, returns: the same shape, zero where the mask is.
    """

    rows: list[list[int]]
    starts: list[int]
    mask: torch.Tensor
    logprobs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor

    def batch(self, rows: list[int], pad: int, device: torch.device) -> Batch:
        """Some episodes as a batch for the networks; its tokens are in the order of `mask[rows]`."""
        return batch_of([self.rows[i] for i in rows], [self.starts[i] for i in rows], pad, device)

    def tokens(self, values: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """The entries of a [batch, response] array at the response tokens of some episodes, [tokens]."""
        return values[rows][self.mask[rows] > 0]


class PPOTrainer(WholeCheckpoints, Trainer):
    """PPO on prompts given as text or as chat messages.

    Args:
        policy: the causal language model to train; its dropout is switched off, as that of all roles.
        rewards: one reward or several, each a one-label sequence-classification model on the policy's
            tokenizer, a `RewardModel` with its own tokenizer, or a function of (prompts, completions) that
            returns one score each. Their weighted sum is the score; each is logged as `rewards/<name>`.
        args: settings.
        prompts: texts, or lists of {"role", "content"} messages for a tokenizer with a chat template.
        tokenizer: pad and EOS must differ.
        reference: the frozen model of the KL penalty; a copy of the policy if None.
        value: a one-label sequence-classification model on the same tokenizer, usually a copy of the reward
            model; if None, a value head on the policy's hidden states: one backbone for both.
        peft_config: a `peft` configuration (LoRA): the policy learns adapters, the reference is the policy
            with them off, and nothing is copied.
        ptx_texts: texts of the language-modelling loss (PPO-ptx), with `args.ptx_coef` above 0.

    Raises:
        DataError: settings or data that cannot work; before any training.
    """

    args: PPOConfig
    processing_class: Any

    def __init__(
        self,
        policy: PreTrainedModel,
        rewards: Reward | Sequence[Reward],
        args: PPOConfig,
        prompts: Sequence[Prompt],
        tokenizer: PreTrainedTokenizerBase,
        *,
        reference: PreTrainedModel | None = None,
        value: PreTrainedModel | None = None,
        peft_config: Any | None = None,
        ptx_texts: Sequence[str] = (),
        **more: Any,
    ) -> None:
        self.rewards = _named(rewards if isinstance(rewards, Sequence) else [rewards])
        self.weights = args.reward_weights or [1.0] * len(self.rewards)
        self.prompts, self.ptx_texts = prompts, ptx_texts
        _check_policy(policy, reference)
        _check_prompts(prompts, tokenizer)
        _check(policy, value, self.rewards, self.weights, args, ptx_texts, tokenizer)
        self.stops = _stop_ids(tokenizer, args.stop_tokens)
        models = [r.model if isinstance(r, RewardModel) else r for r in self.rewards.values()]
        for model in (policy, reference, value, *models):
            if isinstance(model, nn.Module):
                _no_dropout(model)
        _freeze(policy, args.freeze_layers)
        if value is not None:
            _freeze(value, args.freeze_layers)
        if peft_config is None:
            if any(isinstance(reward, RewardAdapter) for reward in self.rewards.values()):
                raise DataError("a RewardAdapter needs the backbone of a policy with a peft_config")
            self.reference: Any = reference or copy.deepcopy(policy)
            self.adapter: Any = None
        else:
            if reference is not None:
                raise DataError("with a peft_config the reference is the policy without adapters: give none")
            from peft import get_peft_model

            self.reference, self.adapter = policy, get_peft_model(policy, peft_config)
            self._add_reward_adapters(args.device)
        self.frozen = [
            m for m in (self.reference if self.adapter is None else None, *models) if isinstance(m, nn.Module)
        ]
        for model in self.frozen:
            model.requires_grad_(False).eval()

        self.rollout: Rollout | None = None
        self.rollout_update = -1
        self.kl_coef = args.kl_coef
        self.stopped = False
        self.figures: dict[str, float] = {}
        self.sums: dict[str, torch.Tensor] = {}
        self.phase_seconds: dict[str, float] = defaultdict(float)
        networks = PolicyAndValue(
            policy, value, arithmetic(args.precision, args.device, policy.config.hidden_size)
        )
        super().__init__(
            model=networks,
            args=args,
            train_dataset=range(args.max_steps),
            processing_class=tokenizer,
            **more,
        )
        if args.batch_size // args.num_mini_batches < self.accelerator.num_processes:
            raise DataError(
                f"a mini-batch of {args.batch_size // args.num_mini_batches} episodes is fewer than "
                f"{self.accelerator.num_processes} processes"
            )
        self.networks = networks
        check_head(policy)
        self.room = self._room()
        for model in self.frozen:
            model.to(args.device)

    def _add_reward_adapters(self, device: torch.device) -> None:
        from peft import set_peft_model_state_dict

        for name, reward in self.rewards.items():
            if isinstance(reward, RewardAdapter):
                self.adapter.add_adapter(name, reward.adapters.config)
                set_peft_model_state_dict(self.adapter, reward.adapters.weights, adapter_name=name)
                reward.head = reward.head.to(device)
        self.adapter.set_adapter("default")

    def get_train_dataloader(self) -> DataLoader:
        """The numbers of the steps, the same in every process: each takes its share of a step's episodes."""
        steps: Any = range(self.args.max_steps)
        return DataLoader(steps, batch_size=1, collate_fn=lambda numbers: {"step": numbers[0]})

    def _encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        texts = as_text(prompts, self.processing_class)
        rows = self.processing_class(texts, add_special_tokens=False)["input_ids"]
        longest = self.args.max_prompt_length
        return rows if longest is None else [row[-longest:] for row in rows]

    def _room(self) -> int:
        """Tokens that the context leaves for a prompt; every prompt is held against it once, none is kept."""
        context = getattr(self.networks.policy.config, "max_position_embeddings", None) or 1 << 30
        room = context - self.args.response_length
        if room < 1:
            raise DataError(
                f"a response of {self.args.response_length} tokens leaves no room for a prompt "
                f"in the context of {context}"
            )
        for start in range(0, len(self.prompts), 1024):
            for i, row in enumerate(self._encode(list(self.prompts[start : start + 1024])), start):
                if not row:
                    raise DataError(f"prompt {i} has no tokens")
                if len(row) > room:
                    raise DataError(
                        f"prompt {i} has {len(row)} tokens; the context of {context} leaves room for {room}: "
                        f"set max_prompt_length to {room} to cut its start, or leave it out"
                    )
        return room

    # ---- rollouts ----

    def prompt_indices(self, update: int) -> list[int]:
        """The prompts of an update: each pass over the data is a fresh permutation."""
        size, n = self.args.batch_size, len(self.prompts)
        needed = range(update * size, (update + 1) * size)
        order = {p: _permutation(n, self.args.seed, p) for p in {i // n for i in needed}}
        return [int(order[i // n][i % n]) for i in needed]

    def micro_batches(self, rows: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """This process's share of some episodes, in micro-batches of like length."""
        share = sorted(rows, key=lambda i: (-lengths[i], i))
        share = share[self.accelerator.process_index :: self.accelerator.num_processes]
        groups = token_batches([lengths[i] for i in share], self.args.micro_batch_tokens)
        return [[share[i] for i in group] for group in groups]

    def mini_batches(self, update: int, epoch: int) -> list[list[int]]:
        """The episodes of each step of an epoch; the first keeps their order, which is random already."""
        size, order = self.args.batch_size, list(range(self.args.batch_size))
        if epoch:
            order = _permutation(size, self.args.seed + 1 + update, epoch).tolist()
        mini = size // self.args.num_mini_batches
        return [order[start : start + mini] for start in range(0, size, mini)]

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.args.device.type == "cuda":
            torch.cuda.synchronize()
        self.phase_seconds[name] += time.perf_counter() - start

    @torch.no_grad()
    def roll_out(self, update: int) -> Rollout:
        """Sample, score and evaluate the episodes of an update, and keep their figures for the log."""
        args, device = self.args, self.args.device
        pad = self.processing_class.pad_token_id
        self.networks.eval()
        with self._phase("generation"):
            chosen = self.prompt_indices(update)
            prompts = self._encode([self.prompts[i] for i in chosen])
            responses = self._sample(update, prompts)
        rows = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        starts, lengths = [len(prompt) for prompt in prompts], [len(row) for row in rows]
        widths = torch.tensor([len(response) for response in responses])
        mask = (torch.arange(int(widths.max())) < widths.unsqueeze(1)).float()
        empty = torch.zeros_like(mask)
        rollout = Rollout(rows, starts, mask, empty, empty, empty, empty)

        with self._phase("scoring"):
            found: dict[int, Any] = {}
            # The micro-batches of the first epoch, so that its first ratio is exactly 1.
            for mini in self.mini_batches(update, 0):
                for part in self.micro_batches(mini, lengths):
                    batch = rollout.batch(part, pad, device)
                    logprobs, entropy, values = self.networks(batch, args.temperature, with_entropy=True)
                    tokens = torch.stack([logprobs, self._reference_logprobs(batch), values, entropy]).cpu()
                    scores = self._model_scores(batch).cpu()
                    for i, figures, row in zip(
                        part, tokens.split(widths[part].tolist(), 1), scores.T.tolist(), strict=True
                    ):
                        found[i] = (figures, row)
            found = self._everywhere(found)
            scores = torch.tensor([found[i][1] for i in range(len(rows))])
            scores = self._function_scores(scores, chosen, responses)
        logprobs, ref_logprobs, values, entropy = (
            nn.utils.rnn.pad_sequence([found[i][0][k] for i in range(len(rows))], batch_first=True)
            for k in range(4)
        )
        self._refuse_what_is_no_number(scores, update, chosen, responses)

        ended = torch.tensor([response[-1] in self.stops for response in responses])
        total = scores @ torch.tensor(self.weights)
        paid = total
        if args.missing_eos is not None:
            missing = (
                total + args.missing_eos
                if args.missing_eos_rule == "add"
                else torch.full_like(total, args.missing_eos)
            )
            paid = torch.where(ended, total, missing)
        kl = kl_estimate(logprobs, ref_logprobs, args.kl_estimator) * mask
        rewards = token_rewards(paid, kl, mask, self.kl_coef)
        if args.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = gae(rewards, values, mask, args.gamma, args.lam)
        if args.whiten_advantages:
            advantages = whiten(advantages, mask)
        sequence_kl = ((logprobs - ref_logprobs) * mask).sum(1).mean().item()
        self.figures = {
            "update": float(update + 1),
            "episode": float((update + 1) * args.batch_size),
            "objective/kl": sequence_kl,
            "objective/kl_coef": self.kl_coef,
            "objective/entropy": masked_mean(entropy, mask).item(),
            "objective/scores": total.mean().item(),
            "objective/non_score_reward": (-self.kl_coef * kl).sum(1).mean().item(),
            "objective/rlhf_reward": (paid - self.kl_coef * kl.sum(1)).mean().item(),
            **{f"rewards/{name}": scores[:, k].mean().item() for k, name in enumerate(self.rewards)},
            "val/response_length": mask.sum(1).mean().item(),
            "val/eos_share": ended.float().mean().item(),
            "val/explained_variance": _explained_variance(values, returns, mask),
        }
        return Rollout(rows, starts, *(x.to(device) for x in (mask, logprobs, values, advantages, returns)))

    def _sample(self, update: int, prompts: list[list[int]]) -> list[list[int]]:
        """Responses to the prompts of an update, each process sampling its share."""
        args, accelerator = self.args, self.accelerator
        noise = torch.rand(
            len(prompts),
            args.response_length,
            generator=torch.Generator().manual_seed(args.seed + 1_000_003 * (update + 1)),
            dtype=torch.float64,
        )
        lengths = [len(prompt) for prompt in prompts]
        mine = sorted(range(len(prompts)), key=lambda i: (-lengths[i], i))
        mine = mine[accelerator.process_index :: accelerator.num_processes]
        found: dict[int, list[int]] = {}
        for group in token_batches([lengths[i] for i in mine], args.rollout_batch_tokens):
            part = [mine[i] for i in group]
            with autocast(args.device, self.networks.dtype):
                responses = sample(
                    self.networks.policy,
                    [prompts[i] for i in part],
                    stop=self.stops,
                    pad=self.processing_class.pad_token_id,
                    temperature=args.temperature,
                    uniforms=noise[part],
                )
            found |= dict(zip(part, responses, strict=True))
        found = self._everywhere(found)
        return [found[i] for i in range(len(prompts))]

    def _everywhere(self, found: dict[int, Any]) -> dict[int, Any]:
        """What every process found, in every process."""
        if self.accelerator.num_processes == 1:
            return found
        return {i: value for part in gather_object([found]) for i, value in part.items()}

    def _reference_logprobs(self, batch: Batch) -> torch.Tensor:
        with nullcontext() if self.adapter is None else self.adapter.disable_adapter(), self._autocast():
            return response_logprobs(self.reference, batch, self.args.temperature)[0]

    def _autocast(self) -> Any:
        return autocast(self.args.device, self.networks.dtype)

    def _model_scores(self, batch: Batch) -> torch.Tensor:
        """Scores of the reward models that read the policy's ids, NaN for the others, [rewards, rows]."""
        scores = torch.full((len(self.rewards), len(batch.ids)), math.nan)
        with self._autocast():
            for k, reward in enumerate(self.rewards.values()):
                if isinstance(reward, PreTrainedModel):
                    scores[k] = sequence_scores(reward, batch.ids, batch.lengths).cpu()
                elif isinstance(reward, RewardAdapter):
                    self.adapter.set_adapter(list(self.rewards)[k])
                    states = hidden_states(
                        self.networks.policy, batch.ids, last_positions(batch.ids, batch.lengths)
                    )
                    scores[k] = (states.float() @ reward.head.T).squeeze(-1).cpu() - reward.shift
                    self.adapter.set_adapter("default")
        return scores

    def _function_scores(
        self, scores: torch.Tensor, chosen: list[int], responses: list[list[int]]
    ) -> torch.Tensor:
        """`scores` [episodes, rewards], those of functions and of models on another tokenizer filled in."""
        by_ids = PreTrainedModel | RewardAdapter
        other = {k: r for k, r in enumerate(self.rewards.values()) if not isinstance(r, by_ids)}
        if not other:
            return scores
        accelerator = self.accelerator
        mine = list(range(len(chosen)))[accelerator.process_index :: accelerator.num_processes]
        prompts = [self.prompts[chosen[i]] for i in mine]
        texts = self.processing_class.batch_decode([responses[i] for i in mine], skip_special_tokens=True)
        for k, reward in other.items():
            if isinstance(reward, RewardModel):
                with self._autocast():
                    values: Sequence[float] = score(reward, as_text(prompts, reward.tokenizer), texts)
            else:
                given = reward(prompts, texts)
                try:
                    values = [float(value) for value in given]
                except (TypeError, ValueError):
                    raise DataError(
                        f"the reward {list(self.rewards)[k]} gave {str(given)[:60]!r}; "
                        "it must give one number a completion"
                    ) from None
            if len(values) != len(mine):
                name = list(self.rewards)[k]
                raise DataError(f"the reward {name} gave {len(values)} scores for {len(mine)} completions")
            found = self._everywhere(dict(zip(mine, values, strict=True)))
            scores[:, k] = torch.tensor([found[i] for i in range(len(chosen))])
        return scores

    def _refuse_what_is_no_number(
        self, scores: torch.Tensor, update: int, chosen: list[int], responses: list[list[int]]
    ) -> None:
        if torch.isfinite(scores).all():
            return
        row, k = (int(x) for x in (~torch.isfinite(scores)).nonzero()[0])
        back = last_checkpoint(Path(str(self.args.output_dir)))
        raise DataError(
            f"update {update}: the reward {list(self.rewards)[k]} is {scores[row, k].item()} for the prompt "
            f"{self.prompts[chosen[row]]!r} and the response "
            f"{self.processing_class.decode(responses[row], skip_special_tokens=True)!r}; "
            + (f"the last checkpoint is {back}" if back else "there is no checkpoint yet")
        )

    # ---- optimisation ----

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Gradients of one optimiser step, sampling the episodes first at the start of an update."""
        args = self.args
        update, inside = divmod(inputs["step"], args.steps_per_update)
        epoch, mini = divmod(inside, args.num_mini_batches)
        if self.rollout_update != update:
            self.rollout, self.rollout_update = self.roll_out(update), update
            self.stopped, self.sums = False, defaultdict(lambda: torch.zeros((), device=args.device))
        model.train()
        loss = torch.zeros((), device=args.device)
        if not self.stopped:  # otherwise no parameter has a gradient, and the optimiser moves none
            with self._phase("optimisation"):
                loss = self._backward(model, inputs["step"], self.mini_batches(update, epoch)[mini])
        if inside + 1 == args.steps_per_update:
            self._end_update()
        return loss

    def _backward(self, model: nn.Module, step: int, rows: list[int]) -> torch.Tensor:
        """Accumulate the gradients of a mini-batch; its loss is over its tokens in all processes."""
        args, rollout, accelerator = self.args, self.rollout, self.accelerator
        assert rollout is not None
        tokens = rollout.mask[rows].sum()
        parts = self.micro_batches(rows, [len(row) for row in rollout.rows])
        total = torch.zeros((), device=args.device)
        seen = {k: torch.zeros((), device=args.device) for k in _NOTES}
        # Gradients of all micro-batches first, then one sum over processes, however many each has.
        with accelerator.no_sync(model):
            for batch, weight in self._ptx(step):
                logprobs, _, _ = self.networks(batch, 1.0, value=False)
                loss = -args.ptx_coef * logprobs.sum() * weight
                accelerator.backward(loss)
                seen["ptx"] += loss.detach() / args.ptx_coef
                total += loss.detach()
            for part in parts:
                self._learn_from(part, tokens, seen)
        for _, p in self._learning() if accelerator.num_processes > 1 else []:
            p.grad = accelerator.reduce(torch.zeros_like(p) if p.grad is None else p.grad, "sum")
        total += seen["pg"] + args.vf_coef * seen["vf"]
        summed = accelerator.reduce(torch.stack(list(seen.values())), "sum")
        for name, value in zip(seen, summed, strict=True):
            self.sums[name] += value
        self.sums["steps"] += 1
        if args.early_stop_kl is not None and summed[list(seen).index("approxkl")] > args.early_stop_kl:
            self.stopped = True
        return total

    def _learn_from(self, part: list[int], tokens: torch.Tensor, seen: dict[str, torch.Tensor]) -> None:
        """Accumulate the gradients of some episodes, and what the log needs of them in `seen`.

        Two networks learn one after the other: the activations of one at a time are in memory.
        """
        args, rollout = self.args, self.rollout
        assert rollout is not None
        batch = rollout.batch(part, self.processing_class.pad_token_id, args.device)
        old, old_values, advantages, returns = (
            rollout.tokens(x, part)
            for x in (rollout.logprobs, rollout.values, rollout.advantages, rollout.returns)
        )
        shared = self.networks.value is None
        logprobs, _, values = self.networks(batch, args.temperature, value=shared)
        log_ratio = logprobs - old
        ratio = log_ratio.exp()
        pg = policy_loss(ratio, advantages, args.cliprange).sum() / tokens
        if not shared:
            self.accelerator.backward(pg)
            _, _, values = self.networks(batch, args.temperature, policy=False)
        vf = value_loss(values, old_values, returns, args.cliprange_value).sum() / tokens
        self.accelerator.backward(args.vf_coef * vf + (pg if shared else 0.0))
        with torch.no_grad():
            seen["pg"] += pg
            seen["vf"] += vf
            seen["ratio"] += ratio.sum() / tokens
            seen["ratio_square"] += (ratio**2).sum() / tokens
            seen["approxkl"] += 0.5 * (log_ratio**2).sum() / tokens
            seen["clipped"] += ((ratio - 1).abs() > args.cliprange).sum() / tokens
            seen["value_clipped"] += ((values - old_values).abs() > args.cliprange_value).sum() / tokens
            if not self.sums["steps"]:
                seen["first_ratio_error"] = torch.maximum(seen["first_ratio_error"], (ratio - 1).abs().max())

    def _ptx(self, step: int) -> Iterator[tuple[Batch, float]]:
        """This process's part of the texts of a step, with one over their tokens everywhere."""
        args = self.args
        if not args.ptx_coef:
            return
        chosen = torch.randint(
            len(self.ptx_texts),
            (args.ptx_batch_size,),
            generator=torch.Generator().manual_seed(args.seed + 15_485_863 * (step + 1)),
        )
        eos = self.processing_class.eos_token_id
        longest = self.room + args.response_length
        texts = self.processing_class([self.ptx_texts[i] for i in chosen.tolist()], add_special_tokens=False)
        rows = [[*ids, eos][:longest] for ids in texts["input_ids"] if ids]
        weight = 1 / max(1, sum(len(row) - 1 for row in rows))
        for part in self.micro_batches(range(len(rows)), [len(row) for row in rows]):
            yield (
                batch_of(
                    [rows[i] for i in part], [1] * len(part), self.processing_class.pad_token_id, args.device
                ),
                weight,
            )

    def _end_update(self) -> None:
        """Log the update and let the controller act on its KL."""
        steps = self.sums["steps"].item()
        mean = {name: value.item() / steps for name, value in self.sums.items()}
        self.log(
            self.figures
            | {
                "loss/policy_avg": mean["pg"],
                "loss/value_avg": mean["vf"],
                **({"loss/ptx_avg": mean["ptx"]} if self.args.ptx_coef else {}),
                "policy/approxkl_avg": mean["approxkl"],
                "policy/clipfrac_avg": mean["clipped"],
                "val/clipfrac_avg": mean["value_clipped"],
                "val/ratio": mean["ratio"],
                "val/ratio_var": mean["ratio_square"] - mean["ratio"] ** 2,
                "val/first_ratio_error": self.sums["first_ratio_error"].item(),
                "val/passes": steps / self.args.num_mini_batches,
                "lr": self._get_learning_rate(),
            }
        )
        if self.args.kl_target is not None:
            self.kl_coef = adapted_kl_coef(
                self.kl_coef,
                self.figures["objective/kl"],
                self.args.kl_target,
                self.args.batch_size,
                self.args.kl_horizon,
            )

    # ---- checkpoints: what learns, and the controller ----

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: p.detach().contiguous() for name, p in self._learning()}, folder / "networks.safetensors"
        )
        (folder / "ppo.json").write_text(json.dumps({"kl_coef": self.kl_coef}))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        loaded = load_file(folder / "networks.safetensors")
        learning = {name: p.shape for name, p in self._learning()}
        if learning != {name: tensor.shape for name, tensor in loaded.items()}:
            raise DataError(f"{folder} is of other networks than these; remove it, or set another output_dir")
        with torch.no_grad():
            for name, p in self._learning():
                p.copy_(loaded[name])
        self.kl_coef = json.loads((folder / "ppo.json").read_text())["kl_coef"]

    def _learning(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.networks.named_parameters() if p.requires_grad]

    def trained_policy(self) -> PreTrainedModel:
        """The policy, adapters merged into its weights; training cannot go on after that."""
        policy: Any = self.networks.policy if self.adapter is None else self.adapter.merge_and_unload()
        if len(self.stops) > 1:
            policy.generation_config.eos_token_id = self.stops  # whoever generates stops as training did
        return policy


_NOTES = (
    "pg",
    "vf",
    "ptx",
    "ratio",
    "ratio_square",
    "approxkl",
    "clipped",
    "value_clipped",
    "first_ratio_error",
)


def as_text(prompts: Sequence[Prompt], tokenizer: Any) -> list[str]:
    """Prompts as text: chat messages through the tokenizer's template, or line by line where it has none."""
    texts = []
    for prompt in prompts:
        if isinstance(prompt, str):
            texts.append(prompt)
        elif tokenizer.chat_template:
            texts.append(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
        else:
            texts.append("\n".join(message["content"] for message in prompt))
    return texts


def _named(rewards: Sequence[Reward]) -> dict[str, Reward]:
    """Rewards by name: a function's own, `model` for a model; a second of one name gets a number."""
    named: dict[str, Reward] = {}
    for reward in rewards:
        name = (
            "model"
            if isinstance(reward, PreTrainedModel | RewardModel | RewardAdapter)
            else getattr(reward, "__name__", "function")
        )
        taken = sum(key == name or key.startswith(f"{name}_") for key in named)
        named[f"{name}_{taken + 1}" if taken else name] = reward
    return named


def _check_policy(policy: Any, reference: Any) -> None:
    if not isinstance(policy, PreTrainedModel) or policy.get_output_embeddings() is None:
        raise DataError(
            f"the policy is a {type(policy).__name__}; it must be a causal language model of transformers, "
            "without adapters (give those as peft_config)"
        )
    if reference is policy:
        raise DataError(
            "the reference is the policy itself, which learns; give a copy, or none to have one made"
        )


def _check_prompts(prompts: Any, tokenizer: Any) -> None:
    if isinstance(prompts, str):
        raise DataError("the prompts are one text; give a list of texts")
    if not len(prompts):
        raise DataError("there are no prompts to train on")
    first = prompts[0]
    chat = isinstance(first, list) and all(isinstance(m, dict) and "content" in m for m in first)
    if not isinstance(first, str) and not chat:
        raise DataError(
            f"prompt 0 is a {type(first).__name__}; prompts are texts or lists of messages "
            "(of a dataset, one column: dataset['prompt'])"
        )
    if chat and not tokenizer.chat_template:
        raise DataError("the prompts are chat messages and the tokenizer has no chat template")


def _check(
    policy: Any,
    value: Any,
    rewards: dict[str, Reward],
    weights: list[float],
    args: PPOConfig,
    ptx_texts: Sequence[str],
    tokenizer: Any,
) -> None:
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise DataError("the tokenizer needs a pad token that differs from its EOS token")
    if not rewards:
        raise DataError("there is no reward to train on")
    if len(weights) != len(rewards):
        raise DataError(f"there are {len(rewards)} rewards and {len(weights)} reward_weights")
    if args.ptx_coef and not len(ptx_texts):
        raise DataError("ptx_coef is above 0 and there are no ptx_texts")
    scorers = {name: r.model if isinstance(r, RewardModel) else r for name, r in rewards.items()}
    if value is not None and any(value is model for model in scorers.values()):
        raise DataError("the value network is the reward model itself, which is frozen; give a copy")
    for name, model in {"value": value, **{f"reward ({name})": r for name, r in scorers.items()}}.items():
        if isinstance(model, PreTrainedModel) and (
            model.config.num_labels != 1 or not hasattr(model, "score")
        ):
            raise DataError(
                f"the {name} model is a {type(model).__name__} with {model.config.num_labels} labels; "
                "it must be a sequence-classification model with one"
            )
    for name, reward in rewards.items():
        if isinstance(reward, RewardModel) and reward.tokenizer.get_vocab() == tokenizer.get_vocab():
            rewards[name] = reward.model  # reads the policy's ids as they are
    for name, model in {"value": value, **{f"reward ({name})": r for name, r in rewards.items()}}.items():
        if isinstance(model, PreTrainedModel) and model.config.vocab_size != policy.config.vocab_size:
            raise DataError(
                f"the {name} model has a vocabulary of {model.config.vocab_size}, the policy one of "
                f"{policy.config.vocab_size}; give a reward with another tokenizer as RewardModel"
            )


def _stop_ids(tokenizer: Any, stop_tokens: list[str]) -> list[int]:
    ids = [tokenizer.eos_token_id]
    for token in stop_tokens:
        found = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(found) != 1 or found[0] == getattr(tokenizer, "unk_token_id", None):
            raise DataError(
                f"the stop token {token!r} is {len(found)} tokens of this tokenizer; it must be one it knows"
            )
        ids += found
    return ids


def _freeze(model: Any, layers: int) -> None:
    """Keep the embeddings and the first layers as they are."""
    if not layers:
        return
    blocks = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList)]
    blocks = [m for m in blocks if len(m) == model.config.num_hidden_layers]
    if not blocks or layers > len(blocks[0]):
        raise DataError(f"freeze_layers is {layers}; the model has {model.config.num_hidden_layers} layers")
    for part in (model.get_input_embeddings(), *blocks[0][:layers]):
        part.requires_grad_(False)


def _no_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if hasattr(model, "config") and hasattr(model.config, "attention_dropout"):
        model.config.attention_dropout = 0.0


def _permutation(n: int, *key: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(k * 7919**i for i, k in enumerate(key)) % 2**63)
    return torch.randperm(n, generator=generator)


def _explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> float:
    spread = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
    rest = returns - values
    return (1 - masked_mean((rest - masked_mean(rest, mask)) ** 2, mask) / spread.clamp_min(1e-8)).item()
