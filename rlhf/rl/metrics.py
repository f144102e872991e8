"""What PPO logs: figures of a rollout, means over the steps of an update, seconds of each phase.

`docs/ppo.md` explains every metric.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from rlhf.rl.advantages import explained_variance, masked_mean

# What a step notes of its mini-batch, each a mean over the response tokens of all processes but for
# `first_ratio_error`, which is the largest distance.
NOTES = (
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


class PhaseSeconds(dict[str, float]):
    """Seconds that each phase of the training has taken so far, by name."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time of a block to a phase."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self[phase] = self.get(phase, 0.0) + (time.perf_counter() - start)


class UpdateSums:
    """Sums of `NOTES` over the steps of an update.

    Attributes:
        steps: the steps made so far, without those that were skipped.
    """

    def __init__(self, device: torch.device) -> None:
        self.steps = 0
        self._sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=device))

    def add(self, notes: Mapping[str, torch.Tensor]) -> None:
        """Add the notes of a step."""
        for name, value in notes.items():
            self._sums[name] += value
        self.steps += 1

    def metrics(self, *, mini_batches: int, ptx: bool) -> dict[str, float]:
        """The metrics of the update: means over its steps."""
        mean = {name: self._sums[name].item() / self.steps for name in NOTES}
        return {
            "loss/policy_avg": mean["pg"],
            "loss/value_avg": mean["vf"],
            **({"loss/ptx_avg": mean["ptx"]} if ptx else {}),
            "policy/approxkl_avg": mean["approxkl"],
            "policy/clipfrac_avg": mean["clipped"],
            "val/clipfrac_avg": mean["value_clipped"],
            "val/ratio": mean["ratio"],
            "val/ratio_var": mean["ratio_square"] - mean["ratio"] ** 2,
            "val/first_ratio_error": self._sums["first_ratio_error"].item(),
            "val/passes": self.steps / mini_batches,
        }


def rollout_metrics(
    scores: Mapping[str, torch.Tensor],
    *,
    total: torch.Tensor,
    paid: torch.Tensor,
    kl: torch.Tensor,
    kl_coef: float,
    entropy: torch.Tensor,
    values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    ended: torch.Tensor,
) -> dict[str, float]:
    """The metrics of a rollout.

    Args:
        scores: by reward, each [episodes].
        total: the weighted sum of the scores, paid: with the rule for a missing EOS, ended: whether a stop
            token ended the response; each [episodes].
        kl: the estimates that the penalty is taken of, entropy, values, returns, mask: each [episodes,
            tokens].
        kl_coef: the weight of the penalty.
    """
    return {
        "objective/entropy": masked_mean(entropy, mask).item(),
        "objective/scores": total.mean().item(),
        "objective/non_score_reward": (-kl_coef * kl).sum(1).mean().item(),
        "objective/rlhf_reward": (paid - kl_coef * kl.sum(1)).mean().item(),
        **{f"rewards/{name}": of_reward.mean().item() for name, of_reward in scores.items()},
        "val/response_length": mask.sum(1).mean().item(),
        "val/eos_share": ended.float().mean().item(),
        "val/explained_variance": explained_variance(values, returns, mask),
    }
