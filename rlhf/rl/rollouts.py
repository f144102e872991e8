"""The episodes of an update: sampled, scored, and turned into advantages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from transformers import PreTrainedModel

from rlhf.compute import autocast, casts_kept
from rlhf.models.batches import Batch, batch_of, token_batches
from rlhf.models.policy import Policy
from rlhf.models.sampling import sample
from rlhf.models.template import Row, prompts_within
from rlhf.rl.advantages import gae, kl_estimate, token_rewards, whiten
from rlhf.rl.checks import check_score
from rlhf.rl.config import PPOConfig
from rlhf.rl.metrics import PhaseSeconds, rollout_metrics
from rlhf.rl.order import Order
from rlhf.rl.rewards import OnBackbone, function_scores, model_scores
from rlhf.rl.roles import Roles


@dataclass
class Episodes:
    """Prompts and their responses, side by side.

    Attributes:
        rows: prompt and response ids of each episode; starts: where its response begins.
        mask: 1 at response tokens up to and including the stop token, else 0, [episodes, longest response].
    """

    rows: list[list[int]]
    starts: list[int]
    mask: torch.Tensor

    @classmethod
    def side_by_side(cls, prompts: list[list[int]], responses: list[list[int]]) -> Episodes:
        """The episodes of some prompts and a response to each."""
        widths = torch.tensor([len(response) for response in responses])
        return cls(
            [prompt + response for prompt, response in zip(prompts, responses, strict=True)],
            [len(prompt) for prompt in prompts],
            (torch.arange(int(widths.max())) < widths.unsqueeze(1)).float(),
        )

    @property
    def lengths(self) -> list[int]:
        """Tokens of each episode, [episodes]."""
        return [len(row) for row in self.rows]

    def batch(self, chosen: list[int], pad: int, device: torch.device) -> Batch:
        """Some episodes as a batch for the networks; its tokens are in the order of `mask[chosen]`."""
        return batch_of([self.rows[i] for i in chosen], [self.starts[i] for i in chosen], pad, device)

    def tokens(self, values: torch.Tensor, chosen: list[int]) -> torch.Tensor:
        """The entries of an [episodes, tokens] array at the response tokens of some episodes, [tokens]."""
        return values[chosen][self.mask[chosen] > 0]


@dataclass
class Rollout(Episodes):
    """The episodes of an update with what the optimisation needs of them.

    Attributes:
        logprobs, values, advantages, returns: [episodes, longest response], zero where the mask is 0.
        scores: of each response, before the rule for a missing EOS, [episodes].
        figures: what the log says of the rollout.
    """

    logprobs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    scores: torch.Tensor
    figures: dict[str, float]


@dataclass
class Rollouts:
    """Makes the rollouts of a run.

    Attributes:
        policy: the policy with its tokenizer and stop tokens.
        seconds: takes the time of the phases `generation` and `scoring`.
    """

    args: PPOConfig
    prompts: Sequence[Row]
    policy: Policy
    roles: Roles
    order: Order
    accelerator: Accelerator
    seconds: PhaseSeconds

    @property
    def weights(self) -> list[float]:
        """The weight of each reward in the score."""
        return self.args.reward_weights or [1.0] * len(self.roles.rewards)

    def encode(self, prompts: Sequence[Row]) -> list[list[int]]:
        """Ids of prompts; one beyond `max_prompt_length` loses its start."""
        template, longest = self.policy.template, self.args.max_prompt_length
        return template.prompts(prompts) if longest is None else prompts_within(template, prompts, longest)

    @torch.no_grad()
    def roll_out(self, update: int, kl_coef: float) -> Rollout:
        """The rollout of an update; every process makes its share, and all have the whole.

        Raises:
            DataError: a score is not finite.
        """
        args = self.args
        self.roles.networks.eval()

        # 1. Take the prompts of the update, and sample a response to each.
        with self.seconds.timed("generation"), casts_kept(args.device):
            prompts = [self.prompts[i] for i in self.order.prompts_of(update)]
            prompt_rows = self.encode(prompts)
            responses = self._sample(update, prompt_rows)
        episodes = Episodes.side_by_side(prompt_rows, responses)
        mask = episodes.mask

        # 2. At each response token: log-probabilities under policy and reference, value, entropy. And the
        #    scores of each response by every reward, [episodes, rewards].
        with self.seconds.timed("scoring"), casts_kept(args.device):
            (logprobs, ref_logprobs, values, entropy), scores = self._evaluate(update, episodes)
            self._fill_in_function_scores(scores, prompts, responses)
        self._refuse_what_is_not_finite(scores, update, prompts, responses)

        # 3. The score of a response is the weighted sum; one that no stop token ended has its own rule.
        ended = torch.tensor([response[-1] in self.policy.stops for response in responses])
        total = scores @ torch.tensor(self.weights)
        paid = total
        if args.missing_eos is not None:
            missing = (
                total + args.missing_eos
                if args.missing_eos_rule == "add"
                else torch.full_like(total, args.missing_eos)
            )
            paid = torch.where(ended, total, missing)

        # 4. The reward of a token is the KL penalty; the last token of a response gets the score, too.
        kl = kl_estimate(logprobs, ref_logprobs, args.kl_estimator) * mask
        rewards = token_rewards(paid, kl, mask, kl_coef)
        if args.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)

        # 5. Advantages and returns.
        advantages, returns = gae(rewards, values, mask, args.gamma, args.lam)
        if args.whiten_advantages:
            advantages = whiten(advantages, mask)

        # 6. What the log says of it all.
        figures = {
            "update": float(update + 1),
            "episode": float((update + 1) * args.batch_size),
            "objective/kl": ((logprobs - ref_logprobs) * mask).sum(1).mean().item(),
            "objective/kl_coef": kl_coef,
        } | rollout_metrics(
            dict(zip(self.roles.rewards, scores.T, strict=True)),
            total=total,
            paid=paid,
            kl=kl,
            kl_coef=kl_coef,
            entropy=entropy,
            values=values,
            returns=returns,
            mask=mask,
            ended=ended,
        )
        mask, logprobs, values, advantages, returns = (
            x.to(args.device) for x in (mask, logprobs, values, advantages, returns)
        )
        return Rollout(
            episodes.rows, episodes.starts, mask, logprobs, values, advantages, returns, total, figures
        )

    def _sample(self, update: int, prompts: list[list[int]]) -> list[list[int]]:
        """Responses to the prompts of an update; each process samples its share."""
        noise, lengths = self.order.noise_of(update), [len(prompt) for prompt in prompts]
        mine = self.order.share(range(len(prompts)), lengths)
        responses: dict[int, list[int]] = {}
        for group in token_batches([lengths[i] for i in mine], self.args.rollout_batch_tokens):
            part = [mine[i] for i in group]
            with self._autocast():
                sampled = sample(
                    self.policy.model,
                    [prompts[i] for i in part],
                    stop=self.policy.stops,
                    pad=self.policy.pad,
                    temperature=self.args.temperature,
                    uniforms=noise[part],
                )
            responses |= dict(zip(part, sampled, strict=True))
        return self._from_all_processes(responses, len(prompts))

    def _evaluate(self, update: int, episodes: Episodes) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What the networks say of the episodes.

        Returns:
            log-probabilities under policy and reference, values, entropies, each [episodes, longest
            response]; and the scores [episodes, rewards], NaN for rewards that read text.
        """
        args, widths = self.args, episodes.mask.sum(1).long()
        evaluated: dict[int, Any] = {}
        # The micro-batches are those of the first epoch, so that its first ratio is exactly 1.
        for mini in self.order.mini_batches(update, 0):
            for part in self.order.micro_batches(mini, episodes.lengths):
                batch = episodes.batch(part, self.policy.pad, args.device)
                logprobs, entropy, values = self.roles.networks(batch, args.temperature, with_entropy=True)
                with self._autocast():
                    ref_logprobs = self.roles.reference_logprobs(batch, args.temperature)
                tokens = torch.stack([logprobs, ref_logprobs, values, entropy]).cpu()
                with self._autocast():
                    scores = model_scores(self.roles.rewards, batch)
                for i, of_tokens, of_rewards in zip(
                    part, tokens.split(widths[part].tolist(), 1), scores.T.tolist(), strict=True
                ):
                    evaluated[i] = (of_tokens, of_rewards)
        rows = self._from_all_processes(evaluated, len(episodes.rows))
        padded = [
            nn.utils.rnn.pad_sequence([of_tokens[k] for of_tokens, _ in rows], batch_first=True)
            for k in range(4)
        ]
        return padded, torch.tensor([of_rewards for _, of_rewards in rows])

    def _fill_in_function_scores(
        self, scores: torch.Tensor, prompts: list[Row], responses: list[list[int]]
    ) -> None:
        """Put the scores by functions and by models on another tokenizer into [episodes, rewards]."""
        rewards = self.roles.rewards
        if all(isinstance(reward, PreTrainedModel | OnBackbone) for reward in rewards.values()):
            return
        mine = range(len(prompts))[self.order.process :: self.order.processes]
        texts = [self.policy.template.text(responses[i], prompts[i]) for i in mine]
        by_reward = function_scores(rewards, [prompts[i] for i in mine], texts, self._autocast)
        for k, values in by_reward.items():
            whole = self._from_all_processes(dict(zip(mine, values, strict=True)), len(prompts))
            scores[:, k] = torch.tensor(whole)

    def _refuse_what_is_not_finite(
        self, scores: torch.Tensor, update: int, prompts: list[Row], responses: list[list[int]]
    ) -> None:
        if not torch.isfinite(scores).all():
            row, k = (int(x) for x in (~torch.isfinite(scores)).nonzero()[0])
            response = self.policy.template.text(responses[row], prompts[row])
            reward, value = list(self.roles.rewards)[k], scores[row, k].item()
            check_score(value, reward, prompts[row]["prompt"], response, update, self.args.output_dir)

    def _from_all_processes(self, mine: dict[int, Any], n: int) -> list[Any]:
        """The values of rows 0 to n, of which each process has its share, in every process."""
        parts = gather_object([mine]) if self.accelerator.num_processes > 1 else [mine]
        values = {i: value for part in parts for i, value in part.items()}
        return [values[i] for i in range(n)]

    def _autocast(self) -> Any:
        return autocast(self.args.device, self.roles.networks.dtype)
