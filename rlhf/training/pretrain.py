"""Pretraining: next-token prediction on the texts of the corpus."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments

from rlhf.data.errors import DataError
from rlhf.data.portions import portions
from rlhf.data.table import IN_HAND
from rlhf.models.batches import right_pad
from rlhf.models.policy import Policy
from rlhf.models.template import content_ids
from rlhf.training.curves import Curve
from rlhf.training.loop import arguments, batch_within, train
from rlhf.training.optimizer import MuonAdamW
from rlhf.training.order import InOrder, reading_order
from rlhf.training.progress import Progress


def pieces(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], longest: int) -> list[np.ndarray]:
    """Ids of every text with its EOS; a text longer than `longest` tokens becomes several pieces.

    Texts are read a thousand at a time, and ids take four bytes, so that a corpus need not fit into memory
    as text.

    Raises:
        DataError: there is no text.
    """
    rows = []
    for some in portions(texts, IN_HAND):
        for row in content_ids(tokenizer, some):
            ids = np.array([*row, tokenizer.eos_token_id], np.int32)
            rows += [ids[i : i + longest] for i in range(0, len(ids), longest)]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise DataError("the corpus is empty; bring a corpus or demonstrations")
    return rows


class Pretrainer(InOrder, Trainer):
    """`Trainer` with a fixed reading order."""


def pretrain(
    policy: Policy,
    texts: Iterable[str],
    *,
    checkpoints: Path,
    seed: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    muon_learning_rate: float,
    save_every: int,
    curve: Curve | None = None,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """Train `policy` in place on `texts`; returns its loss curve."""
    rows = pieces(policy.tokenizer, texts, policy.context)
    batch_size = batch_within(batch_size, len(rows), "base.batch_size")

    def collate(batch: list[np.ndarray]) -> dict[str, torch.Tensor]:
        # Texts padded behind their ends need no mask: attention is causal, and the labels leave padding out.
        ids, lengths = right_pad(batch, policy.pad)
        padding = torch.arange(ids.shape[1]) >= lengths.unsqueeze(1)
        return {"input_ids": ids, "labels": ids.masked_fill(padding, -100)}

    args = TrainingArguments(
        **arguments(checkpoints, seed=seed, save_every=save_every),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(50, steps // 10),
    )
    optimizer = MuonAdamW(policy.model, muon_lr=muon_learning_rate, adamw_lr=learning_rate, weight_decay=0.01)
    trainer = Pretrainer(
        model=policy.model,
        args=args,
        train_dataset=rows,  # the library takes whatever has a length and items
        data_collator=collate,
        optimizers=(optimizer, None),  # the trainer makes the scheduler itself
    )
    # Batches of whole texts of like length have hardly any padding.
    trainer.order = reading_order(list(map(len, rows)), batch_size=batch_size, steps=steps, seed=seed)
    return train(trainer, curve, progress)
