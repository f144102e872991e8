"""A reward model in hand: loaded, scoring completions, shifted so that the references score 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from rlhf.compute import compute_in_float32
from rlhf.data.errors import DataError
from rlhf.data.files import read_json
from rlhf.data.reward_folder import why_no_reward
from rlhf.models.adapters import Adapters, load_adapters, put_on, split_head, whole_head
from rlhf.models.attention import use_short_attention
from rlhf.models.batches import right_pad
from rlhf.models.damage import damage, damage_said
from rlhf.models.logprobs import sequence_scores
from rlhf.models.policy import Policy, context_length, settle_pad
from rlhf.models.score_head import new_head, refuse_no_classification, with_score
from rlhf.models.settled import SETTLED, UNSETTLED, Settled, how_to_load, open_folder
from rlhf.models.template import Row, Template, answered, load_tokenizer, template_of


@dataclass
class RewardModel:
    """A one-label sequence-classification model, its tokenizer, and what is settled of both.

    The head is in float32 whatever the body is in, and so are scores: in bfloat16 many would tie.

    Attributes:
        settled: see `rlhf.models.settled.Settled`; adapters, base: see `rlhf.models.policy.Policy`.
        pad: the id that fills rows of unlike lengths up.
        template: turns rows into ids.
        context: the most tokens of a sequence.
    """

    model: Any  # a PreTrainedModel with a `score` head
    tokenizer: Any
    settled: Settled = UNSETTLED
    adapters: Any = None
    base: Path | None = None
    pad: int = field(init=False)
    template: Template = field(init=False)
    context: int = field(init=False)

    def __post_init__(self) -> None:
        if self.settled.attention is None:
            use_short_attention(self.model)
        self.pad = self.tokenizer.pad_token_id
        self.template = template_of(self.tokenizer, self.settled.template, self.settled.arguments)
        self.context = self.settled.context or context_length(self.model)


def reward_from_policy(path: Path | str, seed: int) -> RewardModel:
    """A reward model with the body of a policy and a new head, N(0, 1/(d+1)) (Stiennon et al. 2020).

    Of a policy that learnt by LoRA it has a copy of the adapters, which learn on, and the head learns whole;
    otherwise all weights learn.
    """
    reward = _load(path, num_labels=1)
    new_head(reward.model, seed)
    return reward


def load_reward(path: Path | str) -> RewardModel:
    """Load a trained reward model, with the model that its adapters sit on if it has some.

    Raises:
        DataError: no such folder, a damaged file in it, a model that gives no single score, or the base of
            its adapters is missing or another one.
    """
    path = Path(path)
    with damage_said(path):
        adapters = load_adapters(path)
    if adapters is None:
        if not (path / "config.json").exists():
            raise DataError(f"{path}: no reward model here; dvc repro writes those in models/")
        if unfit := why_no_reward(path):
            raise damage(path, "*.json") or DataError(unfit)
    return _load(path)


def load_reward_adapter(path: Path | str) -> tuple[Adapters, torch.Tensor, float]:
    """The adapters of a reward model, its head [1, width] and its shift, without the model they sit on.

    Raises:
        DataError: the folder holds no adapters of a reward model.
    """
    with damage_said(path):
        stored = load_adapters(Path(path))
    adapters, head = split_head(stored) if stored else (None, None)
    if adapters is None or head is None:
        raise DataError(f"{path}: no adapters of a reward model here")
    return adapters, head, float(read_json(Path(path, SETTLED)).get("reward_shift", 0.0))


def _load(path: Path | str, **more: Any) -> RewardModel:
    """Load the reward model in a folder, or make one of the policy there."""
    folder, settled, stored = open_folder(path)
    with damage_said(folder, path):
        refuse_no_classification(AutoConfig.from_pretrained(folder), f"{path}: ")
        if stored is not None:
            more["num_labels"] = 1  # the base is a language model
        model = AutoModelForSequenceClassification.from_pretrained(folder, **how_to_load(settled), **more)
        tokenizer = load_tokenizer(path)
    compute_in_float32(model)
    if change := settle_pad(model, tokenizer, str(path)):
        print(f"{path}: {change}", flush=True)
    whole_head(model)
    adapted = None
    if stored is not None:
        adapters, head = split_head(stored)
        adapted = put_on(model, adapters)
        whole_head(model)  # `peft` has stopped it from learning
        if head is not None:
            model.score.weight.data.copy_(head)
            model.config.reward_shift = load_reward_adapter(path)[2]
    return RewardModel(model.eval(), tokenizer, settled, adapted, folder)


def encode(reward: RewardModel, rows: Sequence[Row], completions: Sequence[str]) -> list[list[int]]:
    """Ids of prompts and answers; a sequence beyond the context loses the start of its prompt."""
    return answered(reward.template, rows, completions, reward.context, sampled=True)[0]


@torch.no_grad()
def score(
    reward: RewardModel, rows: Sequence[Row], completions: Sequence[str], batch_size: int = 128
) -> list[float]:
    """Scores of completions, one each; references score 0 on average once the model is shifted.

    Args:
        rows: with `prompt` and `messages`, one for each completion.
    """
    reward.model.eval()
    encoded = encode(reward, rows, completions)
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), i))
    scores = [0.0] * len(encoded)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ids, lengths = right_pad([encoded[i] for i in batch], reward.pad)
        device = reward.model.device
        values = sequence_scores(reward.model, ids.to(device), lengths.to(device))
        for i, value in zip(batch, values.tolist(), strict=True):
            scores[i] = value
    return scores


def shift_to_references(reward: RewardModel, references: Sequence[dict[str, Any]]) -> float:
    """Set `config.reward_shift` so that these demonstrations score 0 on average; returns the shift."""
    reward.model.config.reward_shift = 0.0
    scores = score(reward, references, [row["completion"] for row in references])
    reward.model.config.reward_shift = sum(scores) / len(scores)
    return reward.model.config.reward_shift


def untrained_reward(policy: Policy, seed: int) -> RewardModel:
    """A reward model on the body of a policy in hand, which both then share, with a new head.

    Raises:
        DataError: see `with_score`.
    """
    return RewardModel(with_score(policy.model, seed).eval(), policy.tokenizer, policy.settled)
