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

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from rlhf.compute import arithmetic, autocast, shard_on_cpus
from rlhf.data.errors import DataError
from rlhf.models.batches import Batch, batch_of, token_batches
from rlhf.models.logprobs import check_head, response_logprobs
from rlhf.models.policy import context_length, drop_borrowed_forwards, true_copy
from rlhf.models.reward_model import RewardModel
from rlhf.models.sampling import check_sampling, sample
from rlhf.models.template import Prompt, content_ids, prompt_ids
from rlhf.rl.advantages import (
    adapted_kl_coef,
    explained_variance,
    gae,
    kl_estimate,
    masked_mean,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)
from rlhf.rl.checks import (
    adapted,
    check_policy,
    check_prompts,
    check_roles,
    freeze,
    stop_ids,
    switch_dropout_off,
)
from rlhf.rl.config import PPOConfig
from rlhf.rl.networks import PolicyAndValue, micro_batch_overhead
from rlhf.rl.rewards import (
    Reward,
    RewardAdapter,
    RewardFunction,
    function_scores,
    model_scores,
    named_rewards,
)
from rlhf.training.checkpoints import InCheckpoints, WholeCheckpoints, last_checkpoint

__all__ = ["PPOConfig", "PPOTrainer", "Prompt", "Reward", "RewardAdapter", "RewardFunction"]


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
        self.rewards = named_rewards(rewards if isinstance(rewards, Sequence) else [rewards])
        self.weights = args.reward_weights or [1.0] * len(self.rewards)
        self.prompts, self.ptx_texts = prompts, ptx_texts
        check_policy(policy, reference)
        check_prompts(prompts, tokenizer)
        check_roles(policy, value, self.rewards, self.weights, args, ptx_texts, tokenizer)
        self.stops = stop_ids(tokenizer, args.stop_tokens)
        models = [r.model if isinstance(r, RewardModel) else r for r in self.rewards.values()]
        for model in (policy, reference, value, *models):
            if isinstance(model, nn.Module):
                switch_dropout_off(model)
                drop_borrowed_forwards(model)
        freeze(policy, args.freeze_layers)
        if value is not None:
            freeze(value, args.freeze_layers)
        if peft_config is None:
            if any(isinstance(reward, RewardAdapter) for reward in self.rewards.values()):
                raise DataError("a RewardAdapter needs the backbone of a policy with a peft_config")
            self.reference: Any = reference or true_copy(policy)
            self.adapter: Any = None
        else:
            if reference is not None:
                raise DataError("with a peft_config the reference is the policy without adapters: give none")
            self.reference, self.adapter = policy, adapted(policy, peft_config, args.freeze_layers)
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
        shard_on_cpus()
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
        if self.is_fsdp_enabled and (peft_config is not None or not self.accelerator.is_fsdp2):
            raise DataError("PPO under FSDP needs `fsdp_version: 2` and no peft_config (LoRA)")
        self.networks = networks
        check_head(policy)
        check_sampling(policy)
        self.room = self._room()
        self.overhead = micro_batch_overhead(args.device, policy.config.hidden_size)
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
        rows = prompt_ids(self.processing_class, prompts)
        longest = self.args.max_prompt_length
        return rows if longest is None else [row[-longest:] for row in rows]

    def _room(self) -> int:
        """Tokens that the context leaves for a prompt; every prompt is held against it once, none is kept."""
        context = context_length(self.networks.policy)
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
        groups = token_batches([lengths[i] for i in share], self.args.micro_batch_tokens, self.overhead)
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
                    with self._autocast():
                        scores = model_scores(self.rewards, batch, self.networks.policy, self.adapter)
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
            "val/explained_variance": explained_variance(values, returns, mask),
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

    def _function_scores(
        self, scores: torch.Tensor, chosen: list[int], responses: list[list[int]]
    ) -> torch.Tensor:
        """`scores` [episodes, rewards], those of functions and of models on another tokenizer filled in."""
        if all(isinstance(reward, PreTrainedModel | RewardAdapter) for reward in self.rewards.values()):
            return scores
        mine = list(range(len(chosen)))[self.accelerator.process_index :: self.accelerator.num_processes]
        prompts = [self.prompts[chosen[i]] for i in mine]
        texts = self.processing_class.batch_decode([responses[i] for i in mine], skip_special_tokens=True)
        for k, values in function_scores(self.rewards, prompts, texts, self._autocast).items():
            found = self._everywhere(dict(zip(mine, values, strict=True)))
            scores[:, k] = torch.tensor([found[i] for i in range(len(chosen))])
        return scores

    def _refuse_what_is_no_number(
        self, scores: torch.Tensor, update: int, chosen: list[int], responses: list[list[int]]
    ) -> None:
        if torch.isfinite(scores).all():
            return
        row, k = (int(x) for x in (~torch.isfinite(scores)).nonzero()[0])
        response = self.processing_class.decode(responses[row], skip_special_tokens=True)
        reward, prompt = list(self.rewards)[k], self.prompts[chosen[row]]
        self.check_score(scores[row, k].item(), reward, prompt, response, update)

    def check_score(self, score: float, reward: str, prompt: Prompt, response: str, update: int) -> None:
        """Stop the training at a score that is not finite.

        Raises:
            DataError: with update, prompt and response, and the checkpoint to go back to.
        """
        if math.isfinite(score):
            return
        back = last_checkpoint(Path(str(self.args.output_dir)))
        raise DataError(
            f"update {update}: the reward {reward} is {score} for the prompt {prompt!r} and the response "
            f"{response!r}; " + (f"the last checkpoint is {back}" if back else "there is no checkpoint yet")
        )

    # ---- optimisation ----

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Gradients of one optimiser step, sampling the episodes first at the start of an update."""
        args = self.args
        self.gather()
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
        self.check_finite("the loss", loss)
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
        for name, p in self._learning() if accelerator.num_processes > 1 else []:
            if self.value_alone and not name.startswith("value."):
                continue  # no gradient in any process: the optimiser leaves it alone
            p.grad = accelerator.reduce(torch.zeros_like(p) if p.grad is None else p.grad, "sum")
        self._scatter()
        total += seen["pg"] + args.vf_coef * seen["vf"]
        summed = accelerator.reduce(torch.stack(list(seen.values())), "sum")
        for name, value in zip(seen, summed, strict=True):
            self.sums[name] += value
        self.sums["steps"] += 1
        if args.early_stop_kl is not None and summed[list(seen).index("approxkl")] > args.early_stop_kl:
            self.stopped = True
        return total

    # ---- networks that the processes share (FSDP): whole while episodes go through them ----

    # FSDP's own gathering and summing, in every pass, would have processes wait for each other for ever: they
    # make unlike numbers of passes.

    @property
    def sharded(self) -> bool:
        """Whether each process keeps its part of the networks only, as FSDP has it."""
        return hasattr(self.networks, "unshard")

    def gather(self) -> None:
        """Have every process hold the whole networks. All have to call it; nothing where they are whole."""
        if self.sharded:
            networks: Any = self.networks
            networks.set_reshard_after_backward(False)
            networks.unshard()

    def _scatter(self) -> None:
        """Go back to this process's part of the networks and of their gradients, for the optimiser."""
        if not self.sharded:
            return
        networks: Any = self.networks
        gradients = {}
        for name, p in self._learning():
            if p.grad is not None:
                gradients[name], p.grad = p.grad, None
        networks.reshard()
        for name, p in self._learning():
            if name in gradients:
                p.grad = _part(gradients[name], p)

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
        if self.value_alone:
            _, _, values = self.networks(batch, args.temperature, policy=False)
            vf = value_loss(values, old_values, returns, math.inf).sum() / tokens
            self.accelerator.backward(args.vf_coef * vf)
            seen["vf"] += vf.detach()
            for name in ("ratio", "ratio_square"):
                seen[name] += rollout.mask[part].sum() / tokens
            return
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

    @property
    def value_alone(self) -> bool:
        """Whether this is an update of the warm-up, in which the policy stays as it is."""
        return self.rollout_update < self.args.value_warmup

    def _ptx(self, step: int) -> Iterator[tuple[Batch, float]]:
        """This process's part of the texts of a step, with one over their tokens everywhere."""
        args = self.args
        if not args.ptx_coef or self.value_alone:
            return
        chosen = torch.randint(
            len(self.ptx_texts),
            (args.ptx_batch_size,),
            generator=torch.Generator().manual_seed(args.seed + 15_485_863 * (step + 1)),
        )
        eos = self.processing_class.eos_token_id
        longest = self.room + args.response_length
        texts = content_ids(self.processing_class, [self.ptx_texts[i] for i in chosen.tolist()])
        rows = [[*ids, eos][:longest] for ids in texts if ids]
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
        if not self.args.should_save:  # the other processes' callbacks have seen no looks
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        whole = state_dict or {name: p.detach() for name, p in self._learning()}
        save_file(
            {name: whole[name].contiguous() for name, _ in self._learning()}, folder / "networks.safetensors"
        )
        (folder / "ppo.json").write_text(json.dumps({"kl_coef": self.kl_coef}))
        for callback in self._callbacks_in_checkpoints():
            callback.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        loaded = load_file(folder / "networks.safetensors")
        learning = {name: p.shape for name, p in self._learning()}
        if learning != {name: tensor.shape for name, tensor in loaded.items()}:
            raise DataError(f"{folder} is of other networks than these; remove it, or set another output_dir")
        with torch.no_grad():
            for name, p in self._learning():
                p.copy_(_part(loaded[name].to(p.device), p))
        self.kl_coef = json.loads((folder / "ppo.json").read_text())["kl_coef"]
        for callback in self._callbacks_in_checkpoints():
            callback.load(folder)

    def _callbacks_in_checkpoints(self) -> list[InCheckpoints]:
        return [c for c in self.callback_handler.callbacks if isinstance(c, InCheckpoints)]

    def _learning(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.networks.named_parameters() if p.requires_grad]

    def policy_weights(self) -> dict[str, nn.Parameter]:
        """What learns of the policy, by name."""
        return {name: p for name, p in self._learning() if name.startswith("policy.")}

    def trained_policy(self) -> PreTrainedModel:
        """The policy, adapters merged into its weights; training cannot go on after that."""
        policy: Any = self.networks.policy if self.adapter is None else self.adapter.merge_and_unload()
        if self.sharded:  # whoever saves this one would get the parts
            weights = dict(policy.named_parameters(remove_duplicate=False))
            generation = policy.generation_config
            policy = type(policy)(policy.config).to(policy.dtype)
            policy.load_state_dict(weights)
            policy.generation_config = generation
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


def _part(whole: torch.Tensor, p: Any) -> torch.Tensor:
    """What of a tensor this process keeps for a parameter: all of it, but for one that FSDP has sharded."""
    if not isinstance(p, DTensor):
        return whole
    return distribute_tensor(whole, p.device_mesh, p.placements, src_data_rank=None)


def _permutation(n: int, *key: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(k * 7919**i for i, k in enumerate(key)) % 2**63)
    return torch.randperm(n, generator=generator)
