"""What can silently go wrong when a model is run: checks of its log-probabilities, its KL, its scores.

They belong to `rlhf.models.doctor`; `make doctor` runs them before any training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlhf.data.errors import DataError
from rlhf.models.batches import batch_of
from rlhf.models.doctor import Finding
from rlhf.models.logprobs import mean_kl, response_logprobs
from rlhf.models.packing import check_scores
from rlhf.models.policy import Policy
from rlhf.models.reward_model import RewardModel, encode
from rlhf.models.sampling import sample
from rlhf.models.template import Row

# How far the log-probabilities of sampling and of training may lie apart, in nats, on average over tokens. A
# bfloat16 has 8 bits of precision: two orders of summation differ by hundredths of a nat.
AGREE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


def check_agreement(policy: Policy, rows: Sequence[Row], new_tokens: int = 8) -> Finding:
    """Whether sampling and training give a token the same log-probability."""
    template = policy.template
    prompts = [ids[-(policy.context - new_tokens) :] for ids in template.prompts(rows[:4])]
    noise = torch.rand(
        len(prompts), new_tokens, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    kept: list[tuple[int, int, torch.Tensor]] = []
    answers = sample(
        policy.model,
        prompts,
        stop=policy.stops,
        pad=policy.pad,
        temperature=1.0,
        uniforms=noise,
        keep=kept,
    )
    sampled = [logits.log_softmax(-1)[answers[i][t]] for i, t, logits in sorted(kept, key=lambda k: k[:2])]
    rows_ids = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    batch = batch_of(rows_ids, [len(prompt) for prompt in prompts], policy.pad, policy.model.device)
    with torch.no_grad():
        trained = response_logprobs(policy.model, batch, 1.0)[0]
    apart = (torch.stack(sampled).cpu() - trained.float().cpu()).abs()
    bound = AGREE.get(policy.model.dtype, 5e-2)
    mean, most = apart.mean().item(), apart.max().item()
    return Finding(
        "sampling and training agree on log-probabilities",
        mean <= bound,
        f"apart by {mean:.2g} nats on average and {most:.2g} at most over {len(apart)} tokens, in "
        f"{str(policy.model.dtype).removeprefix('torch.')} (on average at most {bound:g})",
        "PPO's ratio compares the two; where they differ, it learns from the difference.",
        "Set base.dtype to float32, or base.attention to eager.",
    )


def check_start(policy: Policy, reference: Policy, rows: Sequence[Row], texts: Sequence[str]) -> Finding:
    """Whether the KL of a policy that has learnt nothing to its reference is 0."""
    kl = mean_kl(policy, reference, rows[:4], texts[:4], temperature=1.0)
    return Finding(
        "the KL to the reference is 0 before the first step",
        kl == 0.0,
        f"{kl:.3g} nats a sequence",
        "A reference that is not the start of the policy pulls it towards another model.",
        "Run the stages again from sft: the reference must be the policy that PPO starts from.",
    )


def check_reward(
    reward: RewardModel, rows: Sequence[Row], completions: Sequence[Sequence[str]]
) -> list[Finding]:
    """Whether a score depends on what stands beside it, and whether scores differ at all.

    Args:
        rows: prompts; completions: several answers to each.
    """
    examples = [
        encode(reward, [row] * len(texts), texts) for row, texts in zip(rows, completions, strict=True)
    ]
    mend = "Take a model of another architecture as the base."
    means = "Scores that depend on the batch make the order of the rows part of the result."
    try:
        packed = check_scores(reward.model, examples, reward.pad)
        alone, seen = True, f"{sum(map(len, examples))} sequences score alike alone and in a padded batch"
    except DataError as error:
        packed, alone, seen = False, False, str(error)
    how = "alike" if packed else "otherwise, so each answer is read with its prompt in a row of its own"
    return [
        Finding("a score is the same alone and in a padded batch", alone, seen, means, mend),
        Finding(
            "packed rankings score as plain ones",
            alone or packed,
            f"packed behind one prompt they score {how}" if alone else seen,
            "Packing reads a prompt once for all its answers; it is used only where it changes nothing.",
            mend,
        ),
    ]


def check_varies(name: str, scores: Sequence[float]) -> Finding:
    """Whether a reward tells any two answers apart.

    Args:
        name: of the reward; scores: of different answers.
    """
    apart = len(set(scores)) > 1
    low, high = (min(scores), max(scores)) if scores else (0.0, 0.0)
    return Finding(
        f"the reward {name} varies",
        apart if len(scores) > 1 else None,
        f"{len(scores)} answers score {low:.3g} to {high:.3g}",
        "A reward that is the same for every answer has no gradient: training runs and nothing is learnt.",
        "Look at what it matches, such as ppo.reward_functions.format_pattern, and at the answers below.",
    )
