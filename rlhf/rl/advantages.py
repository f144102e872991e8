"""The arithmetic of PPO, on tensors [episodes, tokens] with a mask of the response tokens."""

from __future__ import annotations

import torch


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens where `mask` is 1."""
    return (values * mask).sum() / mask.sum()


def whiten(values: torch.Tensor, mask: torch.Tensor, *, shift_mean: bool = True) -> torch.Tensor:
    """Scale to variance 1 over the masked tokens, and shift to mean 0 or keep the mean; zero elsewhere."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    white = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (white if shift_mean else white + mean) * mask


def kl_estimate(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, kind: str) -> torch.Tensor:
    """Estimates of KL(policy, reference) at sampled tokens (Schulman 2020, "Approximating KL divergence").

    Args:
        logprobs, ref_logprobs: of the sampled tokens, [episodes, tokens]; kind: `k1`, `k2` or `k3`.
    """
    ratio = ref_logprobs - logprobs
    if kind == "k1":
        return -ratio
    if kind == "k2":
        return ratio**2 / 2
    return torch.expm1(ratio) - ratio


def token_rewards(scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, kl_coef: float) -> torch.Tensor:
    """The KL penalty at every response token, and the score at the last one (EOS where there is one).

    Args:
        scores: [episodes]; kl, mask: [episodes, tokens].

    Returns:
        [episodes, tokens].

    Example:
        Two episodes, [2, 3 tokens]: the first has three response tokens and score 2, the second one and -1.

        >>> mask = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
        >>> kl = torch.tensor([[0.5, 0.5, 0.5], [0.5, 0, 0]])
        >>> token_rewards(torch.tensor([2.0, -1]), kl, mask, kl_coef=0.1) + 0  # (+ 0 turns -0 into 0)
        tensor([[-0.0500, -0.0500,  1.9500],
                [-1.0500,  0.0000,  0.0000]])
    """
    rewards = -kl_coef * kl * mask
    last = mask.sum(1).long() - 1
    rewards[torch.arange(len(scores)), last] += scores
    return rewards


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016); an episode ends after its last response token.

    Args:
        rewards, values, mask: [episodes, tokens].
        gamma: discount; lam: 0 trusts the values (one-step differences), 1 the rewards (whole sums).

    Returns:
        advantages and returns (advantages + values), both [episodes, tokens], zero where the mask is 0.

    Example:
        Two episodes, [2, 3 tokens], of three tokens and of one. From the end: 1 - 0.8 = 0.2; then
        (0.8 - 0.4) + lam * 0.2 = 0.5; then (0.4 - 0.2) + lam * 0.5 = 0.45.

        >>> mask = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
        >>> rewards = torch.tensor([[0.0, 0, 1], [-1, 0, 0]])
        >>> values = torch.tensor([[0.2, 0.4, 0.8], [0.1, 0, 0]])
        >>> advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=0.5)
        >>> advantages
        tensor([[ 0.4500,  0.5000,  0.2000],
                [-1.1000,  0.0000,  0.0000]])
        >>> returns
        tensor([[ 0.6500,  0.9000,  1.0000],
                [-1.0000,  0.0000,  0.0000]])
    """
    advantages = torch.zeros_like(rewards)
    running = torch.zeros(len(rewards), dtype=rewards.dtype, device=rewards.device)
    for t in reversed(range(rewards.shape[1])):
        following = values[:, t + 1] * mask[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        advantages[:, t] = running
    return advantages, (advantages + values) * mask


def policy_loss(ratio: torch.Tensor, advantages: torch.Tensor, clip: float) -> torch.Tensor:
    """Clipped policy loss of each token (Schulman et al. 2017, eq. 7), to be minimised."""
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))


def value_loss(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """Clipped value loss of each token: half the larger of two squares (Huang et al. 2022)."""
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def adapted_kl_coef(kl_coef: float, kl: float, target: float, episodes: int, horizon: float) -> float:
    """The next coefficient of the adaptive controller (Ziegler et al. 2019, section 2.2)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / horizon)


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> float:
    """The share of the variance of the returns that the values explain, over the masked tokens."""
    spread = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
    rest = returns - values
    return (1 - masked_mean((rest - masked_mean(rest, mask)) ** 2, mask) / spread.clamp_min(1e-8)).item()
