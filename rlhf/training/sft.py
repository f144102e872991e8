"""Supervised fine-tuning on demonstrations, with TRL's `SFTTrainer`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from rlhf.compute import processes, shard_on_cpus
from rlhf.data.errors import DataError
from rlhf.models.batches import batch_of, token_batches
from rlhf.models.logprobs import check_head, response_logprobs
from rlhf.models.policy import Policy
from rlhf.models.template import content_ids
from rlhf.training.curves import Curve
from rlhf.training.loop import arguments, train
from rlhf.training.order import InOrder, reading_order
from rlhf.training.progress import Progress


def examples(policy: Policy, rows: list[dict[str, Any]]) -> dict[str, list[list[int]]]:
    """Demonstrations as ids and labels; only the completion and its EOS have a loss.

    An example that is too long loses the start of its prompt, never the completion.
    """
    tokenizer, longest = policy.tokenizer, policy.context
    prompts = content_ids(tokenizer, [row["prompt"] for row in rows])
    completions = content_ids(tokenizer, [row["completion"] for row in rows])
    ids, labels = [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        completion = [*completion, tokenizer.eos_token_id][:longest]
        room = longest - len(completion)
        prompt = prompt[-room:] if room else []
        ids.append(prompt + completion)
        labels.append([-100] * len(prompt) + completion)
    return {"input_ids": ids, "labels": labels}


class OrderedSFTTrainer(InOrder, SFTTrainer):
    """TRL's `SFTTrainer` with a fixed reading order."""


def sft(
    policy: Policy,
    demonstrations: list[dict[str, Any]],
    *,
    checkpoints: Path,
    seed: int,
    epochs: float,
    batch_size: int,
    learning_rate: float,
    save_every: int,
    curve: Curve | None = None,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """Fine-tune `policy` in place on demonstrations of split `train`; returns its loss curve.

    `batch_size` is over all processes: each takes its share of the same batches in the same order.

    Raises:
        DataError: no demonstration to train on, or a batch that the processes cannot share.
    """
    rows = [row for row in demonstrations if row["split"] == "train"]
    if not rows:
        raise DataError("there are no demonstrations of split 'train' to fine-tune on")
    if batch_size % processes():
        raise DataError(f"sft.batch_size {batch_size} is not divisible by {processes()} processes")
    encoded = examples(policy, rows)
    steps = math.ceil(epochs * len(rows) / batch_size)
    args = SFTConfig(
        **arguments(checkpoints, seed=seed, save_every=save_every),
        max_steps=steps,
        per_device_train_batch_size=batch_size // processes(),
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        max_length=None,  # `examples` has cut the prompts
        gradient_checkpointing=False,
    )
    shard_on_cpus()
    trainer = OrderedSFTTrainer(
        model=policy.model,
        args=args,
        train_dataset=Dataset.from_dict(encoded),
        processing_class=policy.tokenizer,
    )
    lengths = list(map(len, encoded["input_ids"]))
    trainer.order = reading_order(lengths, batch_size=batch_size, steps=steps, seed=seed)
    try:
        return train(trainer, curve, progress)
    finally:
        vars(policy.model).pop("forward", None)  # TRL's fused head: copies would run this model's


def validation_loss(
    policy: Policy, demonstrations: list[dict[str, Any]], split: str = "validation"
) -> float | None:
    """Mean loss of a completion token, in nats, on a split that trained nothing; None if it is empty."""
    rows = [row for row in demonstrations if row["split"] == split]
    if not rows:
        return None
    encoded = examples(policy, rows)
    starts = [max(1, sum(x == -100 for x in label)) for label in encoded["labels"]]
    total, tokens = 0.0, 0
    policy.model.eval()
    check_head(policy.model)
    with torch.no_grad():
        for group in token_batches([len(ids) for ids in encoded["input_ids"]], 16384):
            batch = batch_of(
                [encoded["input_ids"][i] for i in group],
                [starts[i] for i in group],
                policy.pad,
            )
            total -= response_logprobs(policy.model, batch, 1.0)[0].sum().item()
            tokens += len(batch.targets)
    return total / tokens
