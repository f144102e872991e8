"""Proximal policy optimisation for language models, on `transformers.Trainer`.

The algorithm is that of Ziegler et al. 2019, Stiennon et al. 2020 and Ouyang et al. 2022: a score for the
whole response at its EOS, a per-token KL penalty to a frozen reference inside the reward, generalised
advantage estimation, clipped policy and value losses. The value network is separate and starts from the
reward model.

    trainer = PPOTrainer(policy, reference, value, reward, PPOConfig(...), prompts, tokenizer)
    trainer.train()

One *update* samples `batch_size` episodes and optimises on them `num_ppo_epochs` times, each in
`num_mini_batches` steps. The trainer's dataset is the sequence of micro-batches; which prompts an update
uses and how it permutes them follow from the seed and the update's number alone, so a resumed run repeats
nothing and misses nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainingArguments

from rlhf.contracts import DataError
from rlhf.policy import encode_prompts, left_pad, response_logprobs, sample, sequence_scores, token_values

RewardFunction = Callable[[list[str], list[str]], Sequence[float]]


@dataclass
class PPOConfig(TrainingArguments):
    """Settings of `PPOTrainer`; what it inherits keeps its meaning unless said otherwise.

    `max_steps`, `gradient_accumulation_steps`, `save_steps` and the logging strategy are derived.
    """

    num_updates: int = field(default=100, metadata={"help": "Rollout-and-optimise rounds."})
    batch_size: int = field(default=64, metadata={"help": "Episodes an update."})
    micro_batch_size: int = field(default=64, metadata={"help": "Episodes a forward and backward pass."})
    num_mini_batches: int = field(default=1, metadata={"help": "Optimiser steps an epoch of an update."})
    num_ppo_epochs: int = field(default=4, metadata={"help": "Passes over the episodes of an update."})
    save_updates: int = field(default=10, metadata={"help": "Updates between checkpoints."})
    response_length: int = field(default=53, metadata={"help": "Longest response in tokens."})
    temperature: float = field(
        default=0.7, metadata={"help": "Sampling temperature; logits are divided by it."}
    )
    kl_coef: float = field(
        default=0.05, metadata={"help": "Weight of the per-token KL penalty in the reward."}
    )
    kl_estimator: str = field(default="k1", metadata={"help": "k1, k2 or k3 (Schulman 2020)."})
    missing_eos: float | None = field(
        default=-1.0,
        metadata={"help": "Score of a response without EOS in place of the reward's; None keeps it."},
    )
    gamma: float = field(default=1.0, metadata={"help": "Discount."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of generalised advantage estimation."})
    cliprange: float = field(default=0.2, metadata={"help": "Ratio clip."})
    cliprange_value: float = field(default=0.2, metadata={"help": "Value clip."})
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    whiten_advantages: bool = field(
        default=True, metadata={"help": "Whiten advantages over the whole batch."}
    )

    def __post_init__(self) -> None:
        if self.batch_size % self.num_mini_batches:
            raise DataError(
                f"batch_size {self.batch_size} is not divisible by num_mini_batches {self.num_mini_batches}"
            )
        mini = self.batch_size // self.num_mini_batches
        self.micro_batch_size = min(self.micro_batch_size, mini)
        if mini % self.micro_batch_size:
            raise DataError(
                f"a mini-batch of {mini} is not divisible by micro_batch_size {self.micro_batch_size}"
            )
        if self.kl_estimator not in ("k1", "k2", "k3"):
            raise DataError(f"kl_estimator is {self.kl_estimator!r}; use k1, k2 or k3")
        self.gradient_accumulation_steps = mini // self.micro_batch_size
        self.max_steps = self.num_updates * self.steps_per_update
        # Between two updates no rollout is in memory, so that is where a checkpoint is whole.
        self.save_strategy = "steps"
        self.save_steps = self.save_updates * self.steps_per_update
        self.logging_strategy = "no"
        self.per_device_train_batch_size = 1  # an item of the dataset is the number of a micro-batch
        super().__post_init__()

    @property
    def steps_per_update(self) -> int:
        """Optimiser steps an update."""
        return self.num_ppo_epochs * self.num_mini_batches

    @property
    def micro_batches_per_update(self) -> int:
        """Forward and backward passes an update."""
        return self.num_ppo_epochs * (self.batch_size // self.micro_batch_size)


# ---- the arithmetic, on tensors [episodes, tokens] with a mask of the response tokens ----


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens where `mask` is 1."""
    return (values * mask).sum() / mask.sum()


def whiten(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Shift and scale to mean 0 and variance 1 over the masked tokens; zero elsewhere."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


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


# ---- models ----


class PolicyAndValue(nn.Module):
    """The two networks that learn, as one module for one optimiser."""

    def __init__(self, policy: PreTrainedModel, value: PreTrainedModel) -> None:
        super().__init__()
        self.policy, self.value = policy, value


@dataclass
class Rollout:
    """The episodes of one update.

    Attributes:
        ids: prompt (left-padded) and response (right-padded) ids, [batch, prompt + response].
        prompt_mask: [batch, prompt]; mask: response tokens up to and including EOS, [batch, response].
        logprobs, values, advantages, returns: [batch, response].
    """

    ids: torch.Tensor
    prompt_mask: torch.Tensor
    mask: torch.Tensor
    logprobs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor

    def cut(self, rows: torch.Tensor) -> Rollout:
        """Some rows, without the columns that are padding in all of them."""
        prompt = int(self.prompt_mask[rows].sum(1).max())
        response = int(self.mask[rows].sum(1).max())
        width = self.prompt_mask.shape[1]
        return Rollout(
            self.ids[rows, width - prompt : width + response],
            self.prompt_mask[rows, width - prompt :],
            *(
                x[rows, :response]
                for x in (self.mask, self.logprobs, self.values, self.advantages, self.returns)
            ),
        )

    @property
    def attention(self) -> torch.Tensor:
        """Mask of all real tokens."""
        return torch.cat([self.prompt_mask, self.mask.long()], dim=1)


class _MicroBatches(Dataset):
    """The numbers 0..n-1: which micro-batch of which update comes next."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        return index


class PPOTrainer(Trainer):
    """PPO on prompts given as text.

    Args:
        policy: the causal language model to train; its dropout is switched off, as that of all four roles.
        reference: the frozen model of the KL penalty, usually the SFT policy.
        value: a one-label sequence-classification model on the same tokenizer, usually a copy of `reward`.
        reward: a one-label sequence-classification model on the same tokenizer, or a function of
            (prompts, completions) that returns one score each.
        args: settings.
        prompts: prompts as text; longer ones are cut on the left to the model's context.
        tokenizer: pad and EOS must differ.

    Raises:
        DataError: no prompts, pad equal to EOS, no room for the response, a reward with several labels.
    """

    args: PPOConfig
    processing_class: Any

    def __init__(
        self,
        policy: PreTrainedModel,
        reference: PreTrainedModel,
        value: PreTrainedModel,
        reward: PreTrainedModel | RewardFunction,
        args: PPOConfig,
        prompts: list[str],
        tokenizer: PreTrainedTokenizerFast,
        **more: Any,
    ) -> None:
        if not prompts:
            raise DataError("there are no prompts to train on")
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
            raise DataError("the tokenizer needs a pad token that differs from its EOS token")
        room = policy.config.max_position_embeddings - args.response_length
        if room < 1:
            raise DataError(
                f"a response of {args.response_length} tokens leaves no room for a prompt in the context"
            )
        for role, model in (("value", value), ("reward", reward)):
            if isinstance(model, PreTrainedModel) and model.config.num_labels != 1:
                raise DataError(f"the {role} model has {model.config.num_labels} labels; it needs one")
        for model in (policy, reference, value, reward):
            if isinstance(model, PreTrainedModel):
                _no_dropout(model)
        self.prompts = prompts
        self.prompt_ids = encode_prompts(tokenizer, prompts, room)
        self.reference = reference.requires_grad_(False).eval()
        self.reward = reward.requires_grad_(False).eval() if isinstance(reward, PreTrainedModel) else reward
        self.rollout: Rollout | None = None
        self.rollout_update = -1
        self.sums: dict[str, float] = defaultdict(float)
        super().__init__(
            model=PolicyAndValue(policy, value),
            args=args,
            train_dataset=_MicroBatches(args.num_updates * args.micro_batches_per_update),
            data_collator=lambda rows: {"micro_batch": rows[0]},
            processing_class=tokenizer,
            **more,
        )
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the mini-batch's tokens itself
        self.reference.to(self.args.device)
        if isinstance(self.reward, PreTrainedModel):
            self.reward.to(self.args.device)  # type: ignore[arg-type]

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    # ---- rollouts ----

    def prompt_indices(self, update: int) -> torch.Tensor:
        """The prompts of an update: each pass over the data is a fresh permutation."""
        size, n = self.args.batch_size, len(self.prompts)
        needed = torch.arange(update * size, (update + 1) * size)
        order = {p: _permutation(n, self.args.seed, p) for p in (needed // n).unique().tolist()}
        return torch.tensor([order[i // n][i % n] for i in needed.tolist()])

    @torch.no_grad()
    def roll_out(self, update: int) -> Rollout:
        """Sample, score and evaluate the episodes of an update, and log their figures."""
        args, tokenizer, device = self.args, self.processing_class, self.args.device
        networks: Any = self.accelerator.unwrap_model(self.model)
        networks.eval()
        chosen = self.prompt_indices(update).tolist()
        ids, prompt_mask = left_pad([self.prompt_ids[i] for i in chosen], tokenizer.pad_token_id)
        ids, prompt_mask = ids.to(device), prompt_mask.to(device)
        torch.manual_seed(args.seed + 1_000_003 * (update + 1))
        responses = sample(
            networks.policy,
            tokenizer,
            ids,
            prompt_mask,
            temperature=args.temperature,
            max_new_tokens=args.response_length,
        )
        ended = (responses == tokenizer.eos_token_id).cumsum(1)
        mask = ((ended == 0) | ((ended == 1) & (responses == tokenizer.eos_token_id))).float()
        zeros = torch.zeros_like(mask)
        rollout = Rollout(torch.cat([ids, responses], 1), prompt_mask, mask, zeros, zeros, zeros, zeros)

        logprobs, ref_logprobs, values, entropy = (torch.zeros_like(mask) for _ in range(4))
        # The same rows together as in the first epoch, so that its first ratio is exactly 1.
        for rows in torch.arange(args.batch_size).split(args.micro_batch_size):
            part = rollout.cut(rows)
            width = part.mask.shape[1]
            inputs = (part.ids, part.attention, width)
            logprobs[rows, :width], entropy[rows, :width] = response_logprobs(
                networks.policy, *inputs, args.temperature
            )
            ref_logprobs[rows, :width], _ = response_logprobs(self.reference, *inputs, args.temperature)
            values[rows, :width] = token_values(networks.value, *inputs)

        scores = self.score(chosen, rollout)
        finished = ended[:, -1] > 0
        if not torch.isfinite(scores).all():
            bad = int((~torch.isfinite(scores)).nonzero()[0])
            raise DataError(
                f"update {update}: the reward is {scores[bad].item()} "
                f"for the prompt {self.prompts[chosen[bad]]!r}"
            )
        raw_scores = scores
        if args.missing_eos is not None:
            scores = torch.where(finished, scores, torch.full_like(scores, args.missing_eos))
        kl = kl_estimate(logprobs, ref_logprobs, args.kl_estimator) * mask
        rewards = token_rewards(scores, kl, mask, args.kl_coef)
        values = values * mask
        advantages, returns = gae(rewards, values, mask, args.gamma, args.lam)
        if args.whiten_advantages:
            advantages = whiten(advantages, mask)
        rollout = Rollout(rollout.ids, prompt_mask, mask, logprobs * mask, values, advantages, returns)
        sequence_kl = ((logprobs - ref_logprobs) * mask).sum(1)
        self.figures = {
            "update": float(update + 1),
            "objective/kl": sequence_kl.mean().item(),
            "objective/entropy": masked_mean(entropy, mask).item(),
            "objective/scores": raw_scores.mean().item(),
            "objective/non_score_reward": (-args.kl_coef * kl).sum(1).mean().item(),
            "objective/rlhf_reward": rewards.sum(1).mean().item(),
            "val/response_length": mask.sum(1).mean().item(),
            "val/eos_share": finished.float().mean().item(),
            "val/explained_variance": _explained_variance(values, returns, mask),
        }
        return rollout

    def score(self, chosen: list[int], rollout: Rollout) -> torch.Tensor:
        """One score an episode, [batch]: the reward model's at the last token, or the function's."""
        tokenizer = self.processing_class
        if not isinstance(self.reward, PreTrainedModel):
            texts = tokenizer.batch_decode(
                rollout.ids[:, rollout.prompt_mask.shape[1] :], skip_special_tokens=True
            )
            scores = self.reward([self.prompts[i] for i in chosen], texts)
            return torch.tensor(list(scores), dtype=torch.float32, device=rollout.ids.device)
        scores = torch.zeros(len(chosen), device=rollout.ids.device)
        for rows in torch.arange(len(chosen)).split(self.args.micro_batch_size):
            part = rollout.cut(rows)
            scores[rows] = sequence_scores(self.reward, part.ids, part.attention)
        return scores

    # ---- optimisation ----

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """From the number of a micro-batch to its episodes, sampling them at the start of an update."""
        args = self.args
        update, inside = divmod(inputs["micro_batch"], args.micro_batches_per_update)
        if self.rollout_update != update:
            self.rollout, self.rollout_update = self.roll_out(update), update
            self.accelerator.unwrap_model(self.model).train()
            self.sums = defaultdict(float)
        epoch, micro = divmod(inside, args.batch_size // args.micro_batch_size)
        order = torch.arange(args.batch_size)
        if epoch:  # the first epoch keeps the rollout's order: its rows are in random order already
            order = _permutation(args.batch_size, args.seed + 1 + update, epoch)
        mini_size = args.batch_size // args.num_mini_batches
        mini = micro * args.micro_batch_size // mini_size
        rows = order[micro * args.micro_batch_size : (micro + 1) * args.micro_batch_size]
        assert self.rollout is not None
        tokens = self.rollout.mask[order[mini * mini_size : (mini + 1) * mini_size]].sum()
        return {
            "part": self.rollout.cut(rows),
            "tokens": tokens,
            "last": inside + 1 == args.micro_batches_per_update,
        }

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Clipped policy and value loss of a micro-batch, over the tokens of its whole mini-batch."""
        args = self.args
        part: Rollout = inputs["part"]
        networks = self.accelerator.unwrap_model(model)
        width = part.mask.shape[1]
        logprobs, _ = response_logprobs(networks.policy, part.ids, part.attention, width, args.temperature)
        values = token_values(networks.value, part.ids, part.attention, width)
        log_ratio = (logprobs - part.logprobs) * part.mask
        ratio = log_ratio.exp()
        pg = (policy_loss(ratio, part.advantages, args.cliprange) * part.mask).sum() / inputs["tokens"]
        vf = (value_loss(values, part.values, part.returns, args.cliprange_value) * part.mask).sum() / inputs[
            "tokens"
        ]
        with torch.no_grad():
            self._note(part, ratio, log_ratio, pg, vf)
        if inputs["last"]:
            self._log_update()
        return pg + args.vf_coef * vf

    def _note(self, part: Rollout, ratio: torch.Tensor, log_ratio: torch.Tensor, pg: Any, vf: Any) -> None:
        sums, mask = self.sums, part.mask
        if not sums["tokens"]:
            sums["first_ratio_error"] = ((ratio - 1).abs() * mask).max().item()
        sums["tokens"] += mask.sum().item()
        sums["ratio"] += (ratio * mask).sum().item()
        sums["approxkl"] += 0.5 * (log_ratio**2).sum().item()
        sums["clipped"] += (((ratio - 1).abs() > self.args.cliprange) * mask).sum().item()
        sums["pg"] += pg.item()
        sums["vf"] += vf.item()

    def _log_update(self) -> None:
        sums, steps = self.sums, self.args.steps_per_update
        self.log(
            self.figures
            | {
                "loss/policy_avg": sums["pg"] / steps,
                "loss/value_avg": sums["vf"] / steps,
                "policy/approxkl_avg": sums["approxkl"] / sums["tokens"],
                "policy/clipfrac_avg": sums["clipped"] / sums["tokens"],
                "val/ratio": sums["ratio"] / sums["tokens"],
                "val/first_ratio_error": sums["first_ratio_error"],
                "lr": self._get_learning_rate(),
            }
        )

    # ---- checkpoints: both networks, each a folder of its own ----

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        networks: Any = self.accelerator.unwrap_model(self.model)
        networks.policy.save_pretrained(folder / "policy")
        networks.value.save_pretrained(folder / "value")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        networks: Any = self.accelerator.unwrap_model(model or self.model)
        for name in ("policy", "value"):
            part = getattr(networks, name)
            loaded = type(part).from_pretrained(
                Path(resume_from_checkpoint) / name, use_safetensors=True, dtype=part.dtype
            )
            part.load_state_dict(loaded.state_dict())


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
