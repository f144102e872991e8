"""Proximal policy optimisation for language models, on `transformers.Trainer` and `accelerate`.

The algorithm is that of Ziegler et al. 2019, Stiennon et al. 2020 and Ouyang et al. 2022: a score for the
whole response at its EOS, a per-token KL penalty to a frozen reference inside the reward, generalised
advantage estimation, clipped policy and value losses. `docs/ppo.md` explains every detail and metric.

    trainer = PPOTrainer(policy, reward, PPOConfig("checkpoints"), prompts, tokenizer)
    trainer.train()

One *update* samples `batch_size` episodes (`rlhf.rl.rollouts`) and optimises on them `num_ppo_epochs` times,
each time in `num_mini_batches` steps; the episodes of a step go through the networks in micro-batches of like
length. The trainer's dataset is the sequence of steps (`rlhf.rl.order`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from rlhf.compute import casts_kept, part_of, shard_on_cpus
from rlhf.data.errors import DataError
from rlhf.models.batches import Batch, batch_of
from rlhf.models.logprobs import check_head
from rlhf.models.one_row import takes_one_row
from rlhf.models.policy import UNSETTLED, Policy, Settled
from rlhf.models.reward_model import RewardModel, score
from rlhf.models.sampling import check_sampling
from rlhf.models.template import Prompt, Row, documents
from rlhf.rl.advantages import adapted_kl_coef, policy_loss, value_loss
from rlhf.rl.checks import (
    check_lengths,
    check_policy,
    check_processes,
    check_roles,
    check_rollout,
    check_room,
    prompt_rows,
)
from rlhf.rl.config import PPOConfig
from rlhf.rl.metrics import NOTES, PhaseSeconds, UpdateSums
from rlhf.rl.order import Order, micro_batch_overhead
from rlhf.rl.rewards import Reward, RewardAdapter, RewardFunction, Scorer, named_rewards
from rlhf.rl.roles import assign_roles
from rlhf.rl.rollouts import Rollout, Rollouts
from rlhf.rl.shards import gather, scatter, sharded, unsharded
from rlhf.training.checkpoints import InCheckpoints, WholeCheckpoints

__all__ = ["PPOConfig", "PPOTrainer", "Prompt", "Reward", "RewardAdapter", "RewardFunction"]


class PPOTrainer(WholeCheckpoints, Trainer):
    """PPO on prompts given as text or as chat messages.

    Args:
        policy: the causal language model to train; its dropout is switched off, as that of all roles. With
            adapters on it (a `peft` model), they learn, and the reference is a frozen copy of them.
        rewards: one reward or several, each a one-label sequence-classification model on the policy's
            tokenizer, a `RewardModel` with its own tokenizer and template, a `RewardAdapter` on the policy's
            backbone, or a function of (prompts, completions) that returns one score each. Their weighted sum
            is the score; each is logged as `rewards/<name>`.
        args: settings.
        prompts: texts, lists of {"role", "content"} messages for a tokenizer with a chat template, or rows
            with `prompt` (text) and `messages` (None for plain text).
        tokenizer: pad and EOS must differ.
        reference: the frozen model of the KL penalty; a copy of the policy if None.
        value: a one-label sequence-classification model on the same tokenizer, usually a copy of the reward
            model; or, for adapters and a head that learn on the policy's backbone, the `RewardAdapter` that
            they start from; if None, a value head on the policy's hidden states.
        peft_config: a `peft` configuration (LoRA) for a policy without adapters: it learns new ones, the
            reference is the policy with them off, and nothing is copied.
        ptx_texts: of the language-modelling loss (PPO-ptx), with `args.ptx_coef` above 0: texts, learnt
            whole, or rows with a `completion` besides, of which that is learnt.
        settled: context and template, where they are not those of model and tokenizer.

    Raises:
        DataError: settings or data that cannot work; before any training.
    """

    args: PPOConfig

    def __init__(
        self,
        policy: PreTrainedModel | PeftModel,
        rewards: Reward | Sequence[Reward],
        args: PPOConfig,
        prompts: Sequence[Prompt | Row],
        tokenizer: PreTrainedTokenizerBase,
        *,
        reference: PreTrainedModel | None = None,
        value: PreTrainedModel | RewardAdapter | None = None,
        peft_config: Any | None = None,
        ptx_texts: Sequence[str | Row] = (),
        settled: Settled = UNSETTLED,
        **more: Any,
    ) -> None:
        named = named_rewards(rewards if isinstance(rewards, Sequence) else [rewards], tokenizer, settled)
        model: Any = check_policy(policy, reference, peft_config)
        rows = prompt_rows(prompts, tokenizer)
        check_roles(model, value, named, args, ptx_texts, tokenizer)
        self.policy = Policy(model, tokenizer, args.stop_tokens, settled)
        self.merges = peft_config is not None
        self.roles = assign_roles(policy, value, reference, named, peft_config, args)
        self.networks = self.roles.networks
        self.ptx_texts = ptx_texts

        self.kl_coef = args.kl_coef
        self.rollout: Rollout | None = None
        self.rollout_update = -1  # the update that the rollout belongs to
        self.stopped = False  # whether the rest of this update is skipped
        self.sums = UpdateSums(args.device)
        self.phase_seconds = PhaseSeconds(args.device)
        shard_on_cpus()
        super().__init__(
            model=self.networks,
            args=args,
            train_dataset=range(args.max_steps),
            processing_class=tokenizer,
            **more,
        )
        accelerator = self.accelerator
        check_processes(
            args,
            accelerator.num_processes,
            fsdp=self.is_fsdp_enabled,
            fsdp2=accelerator.is_fsdp2,
            adapters=self.roles.backbone is not None,
        )
        check_head(model)
        check_sampling(model)
        overhead = micro_batch_overhead(args.device, model.config.hidden_size)
        self.order = Order(
            args,
            len(rows),
            accelerator.process_index,
            accelerator.num_processes,
            overhead,
            in_rows=all(map(takes_one_row, self.networks.bodies())),
        )
        self.rollouts = Rollouts(
            args, rows, self.policy, self.roles, self.order, accelerator, self.phase_seconds
        )
        room = check_room(self.policy.context, args.response_length)
        for start in range(0, len(rows), 1024):  # encoded here to be checked; none is kept
            encoded = self.rollouts.encode(rows[start : start + 1024])
            check_lengths(encoded, start, room, self.policy.context)
        for model in self.roles.frozen:
            model.to(args.device)

    def get_train_dataloader(self) -> DataLoader:
        """The numbers of the steps, the same in every process: each takes its share of a step's episodes."""
        steps: Any = range(self.args.max_steps)
        return DataLoader(steps, batch_size=1, collate_fn=lambda numbers: {"step": numbers[0]})

    # ---- the algorithm ----

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Leave the gradients of one optimiser step; the optimiser itself is the `Trainer`'s."""
        args = self.args
        gather(self.networks)
        update, inside = divmod(inputs["step"], args.steps_per_update)
        epoch, mini = divmod(inside, args.num_mini_batches)

        # 1. An update begins: sample its episodes, score them, and take their advantages.
        if self.rollout_update != update:
            self.rollout, self.rollout_update = self.roll_out(update), update
            self.stopped, self.sums = False, UpdateSums(args.device)
            check_rollout(self.rollout, self.policy.stops, args, self.roles.judged)

        # 2. Every step: gradients of the next mini-batch. Of a step that is skipped no parameter has a
        #    gradient, so the optimiser moves none.
        model.train()
        loss = torch.zeros((), device=args.device)
        if not self.stopped:
            with self.phase_seconds.timed("optimisation"):
                loss = self._backward(model, inputs["step"], self.order.mini_batches(update, epoch)[mini])
        self.check_finite("the loss", loss)

        # 3. An update ends: log it, and let the adaptive controller act on its KL.
        if inside + 1 == args.steps_per_update:
            self._end_update()
        return loss

    def roll_out(self, update: int) -> Rollout:
        """The episodes of an update by the policy as it is now."""
        return self.rollouts.roll_out(update, self.kl_coef)

    def _backward(self, model: nn.Module, step: int, episodes: list[int]) -> torch.Tensor:
        """Accumulate the gradients of a mini-batch; its loss is a mean over its tokens in all processes."""
        args, rollout, accelerator = self.args, self.rollout, self.accelerator
        assert rollout is not None
        tokens = rollout.mask[episodes].sum()
        notes = {name: torch.zeros((), device=args.device) for name in NOTES}
        total = torch.zeros((), device=args.device)

        # 1. Gradients of this process's micro-batches, without a sum over processes in each: their numbers
        #    differ between processes.
        with accelerator.no_sync(model), casts_kept(args.device):
            for batch, weight in self._ptx_batches(step):
                logprobs, _, _ = self.networks(batch, 1.0, value=False)
                loss = -args.ptx_coef * logprobs.sum() * weight
                accelerator.backward(loss)
                notes["ptx"] += loss.detach() / args.ptx_coef
                total += loss.detach()
            for part in self.order.micro_batches(episodes, rollout.lengths):
                learn = self._learn_values_from if self.value_alone else self._learn_from
                learn(part, tokens, notes)

        # 2. One sum over processes.
        # In the warm-up the policy has no gradient in any process, and the optimiser leaves it alone.
        learning = self.networks.learning_values() if self.value_alone else self.networks.learning()
        for p in learning.values() if accelerator.num_processes > 1 else ():
            p.grad = accelerator.reduce(torch.zeros_like(p) if p.grad is None else p.grad, "sum")
        scatter(self.networks)
        total += notes["pg"] + args.vf_coef * notes["vf"]
        summed = dict(zip(notes, accelerator.reduce(torch.stack(list(notes.values())), "sum"), strict=True))
        self.sums.add(summed)

        # 3. Skip the rest of the update once the policy is too far from the one that sampled.
        if args.early_stop_kl is not None and summed["approxkl"] > args.early_stop_kl:
            self.stopped = True
        return total

    def _learn_from(self, part: list[int], tokens: torch.Tensor, notes: dict[str, torch.Tensor]) -> None:
        """Accumulate the gradients of both losses on some episodes, and note what the log needs.

        Two networks learn one after the other, so memory holds the activations of one at a time.

        Args:
            tokens: how many response tokens the mini-batch has in all processes.
        """
        args, rollout = self.args, self.rollout
        assert rollout is not None
        batch = rollout.batch(part, self.policy.pad, args.device)
        old, old_values, advantages, returns = (
            rollout.tokens(x, part)
            for x in (rollout.logprobs, rollout.values, rollout.advantages, rollout.returns)
        )
        shared = self.networks.value is None  # the value is a head on the policy's states
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
            notes["pg"] += pg
            notes["vf"] += vf
            notes["ratio"] += ratio.sum() / tokens
            notes["ratio_square"] += (ratio**2).sum() / tokens
            notes["approxkl"] += 0.5 * (log_ratio**2).sum() / tokens
            notes["clipped"] += ((ratio - 1).abs() > args.cliprange).sum() / tokens
            notes["value_clipped"] += ((values - old_values).abs() > args.cliprange_value).sum() / tokens
            if not self.sums.steps:
                notes["first_ratio_error"] = torch.maximum(
                    notes["first_ratio_error"], (ratio - 1).abs().max()
                )

    def _learn_values_from(
        self, part: list[int], tokens: torch.Tensor, notes: dict[str, torch.Tensor]
    ) -> None:
        """Accumulate the gradients of the unclipped value loss alone, as the warm-up has it."""
        args, rollout = self.args, self.rollout
        assert rollout is not None
        batch = rollout.batch(part, self.policy.pad, args.device)
        old_values, returns = rollout.tokens(rollout.values, part), rollout.tokens(rollout.returns, part)
        _, _, values = self.networks(batch, args.temperature, policy=False)
        vf = value_loss(values, old_values, returns, math.inf).sum() / tokens
        self.accelerator.backward(args.vf_coef * vf)
        notes["vf"] += vf.detach()
        for name in ("ratio", "ratio_square"):  # the policy has not moved
            notes[name] += rollout.mask[part].sum() / tokens

    @property
    def value_alone(self) -> bool:
        """Whether this is an update of the warm-up, in which the policy stays as it is."""
        return self.rollout_update < self.args.value_warmup

    def _ptx_batches(self, step: int) -> Iterator[tuple[Batch, float]]:
        """This process's share of the PPO-ptx texts of a step, with 1 over their tokens in all processes."""
        args, policy = self.args, self.policy
        if not args.ptx_coef or self.value_alone:
            return
        chosen = [self.ptx_texts[i] for i in self.order.texts_of(step, len(self.ptx_texts))]
        rows, starts = documents(policy.template, chosen, policy.context)
        weight = 1 / max(1, sum(len(row) - start for row, start in zip(rows, starts, strict=True)))
        for part in self.order.micro_batches(range(len(rows)), [len(row) for row in rows]):
            batch = batch_of([rows[i] for i in part], [starts[i] for i in part], policy.pad, args.device)
            yield batch, weight

    def _end_update(self) -> None:
        """Log the update and let the controller act on its KL."""
        args, rollout = self.args, self.rollout
        assert rollout is not None
        means = self.sums.metrics(mini_batches=args.num_mini_batches, ptx=bool(args.ptx_coef))
        self.log(rollout.figures | means | {"lr": self._get_learning_rate()})
        if args.kl_target is not None:
            kl = rollout.figures["objective/kl"]
            self.kl_coef = adapted_kl_coef(self.kl_coef, kl, args.kl_target, args.batch_size, args.kl_horizon)

    # ---- checkpoints: what learns, and the controller ----

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:  # the callbacks of the other processes have no state to save
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        learning = self.networks.learning()
        whole = state_dict or {name: p.detach() for name, p in learning.items()}
        save_file({name: whole[name].contiguous() for name in learning}, folder / "networks.safetensors")
        (folder / "ppo.json").write_text(json.dumps({"kl_coef": self.kl_coef}))
        for callback in self._callbacks_in_checkpoints():
            callback.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        loaded, learning = load_file(folder / "networks.safetensors"), self.networks.learning()
        if {name: p.shape for name, p in learning.items()} != {name: p.shape for name, p in loaded.items()}:
            raise DataError(f"{folder} is of other networks than these; remove it, or set another output_dir")
        with torch.no_grad():
            for name, p in learning.items():
                p.copy_(part_of(loaded[name].to(p.device), p))
        self.kl_coef = json.loads((folder / "ppo.json").read_text())["kl_coef"]
        for callback in self._callbacks_in_checkpoints():
            callback.load(folder)

    def _callbacks_in_checkpoints(self) -> list[InCheckpoints]:
        return [c for c in self.callback_handler.callbacks if isinstance(c, InCheckpoints)]

    # ---- the result ----

    def scorer(self, reward: RewardModel | RewardAdapter) -> Scorer:
        """What scores texts by a reward model; a `RewardAdapter` does so on the policy's backbone."""
        if isinstance(reward, RewardModel):
            return partial(score, reward)
        return self.roles.adapter_scorer(reward, self.policy, self.args.rollout_batch_tokens)

    def trained_policy(self) -> PreTrainedModel | PeftModel:
        """The policy; training cannot go on after that.

        New adapters, those of a `peft_config`, are merged into its weights, in float32. A policy that came
        with adapters is returned with these alone, which have learnt.
        """
        policy: Any = self.policy.model
        if len(self.policy.stops) > 1:
            policy.generation_config.eos_token_id = self.policy.stops  # generation stops as training did
        if self.roles.backbone is not None:
            adapted = self.roles.backbone.alone()
            return adapted.float().merge_and_unload() if self.merges else adapted
        if sharded(self.networks):  # whoever saves this one would get the parts
            policy = unsharded(policy)
        return policy
