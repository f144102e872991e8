"""Supervised fine-tuning on demonstrations, with TRL's `SFTTrainer`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers.utils import ModelOutput
from trl import SFTConfig, SFTTrainer

from rlhf.compute import shard_on_cpus
from rlhf.data.errors import DataError
from rlhf.data.portions import portions
from rlhf.data.table import IN_HAND
from rlhf.models.batches import batch_of, token_batches
from rlhf.models.logprobs import check_head, choices, hidden_states, response_logprobs
from rlhf.models.policy import Policy
from rlhf.models.template import Row, answered
from rlhf.training.curves import Curve
from rlhf.training.loop import (
    InPrecision,
    arguments,
    batch_within,
    learner,
    learns_in_float32,
    share_of,
    train,
)
from rlhf.training.order import InOrder, reading_order
from rlhf.training.progress import Progress


def examples(policy: Policy, rows: Sequence[Row], learn: str = "last") -> dict[str, list[list[int]]]:
    """Demonstrations as ids and labels; only answers, each with the token that ends its turn, have a loss.

    An example that is too long loses the start of its prompt, never the answer.

    Args:
        learn: `all` makes an example of each assistant turn of a conversation, because a template may write
            an answer otherwise where it is the last turn; `last` learns the completion alone.
    """
    turns = [turn for row in rows for turn in (answered_turns(row) if learn == "all" else [row])]
    encoded, starts = answered(policy.template, turns, [turn["completion"] for turn in turns], policy.context)
    labels = [[-100] * start + ids[start:] for ids, start in zip(encoded, starts, strict=True)]
    return {"input_ids": encoded, "labels": labels}


def answered_turns(row: Row) -> list[dict[str, Any]]:
    """The assistant turns of a demonstration, each as a demonstration of its own, the completion last.

    A turn that answers nobody, as a greeting at the start, is only read.
    """
    messages = row.get("messages") or []
    earlier = [
        {**row, "messages": messages[:i], "completion": message["content"]}
        for i, message in enumerate(messages)
        if message["role"] == "assistant" and i and messages[i - 1]["role"] in ("user", "tool")
    ]
    return [*earlier, dict(row)]


class OrderedSFTTrainer(InOrder, InPrecision, SFTTrainer):
    """TRL's `SFTTrainer` with a fixed reading order, in the arithmetic that pays on this device."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """See `SFTTrainer.compute_loss`."""
        with self.arithmetic():
            return super().compute_loss(model, inputs, *args, **kwargs)


@dataclass
class Answers(ModelOutput):
    """What TRL's loss reads of a model's output, each for the learnt tokens alone, [tokens]."""

    log_probs: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    is_top1: torch.Tensor | None = None
    label_mask: torch.Tensor | None = None


@contextmanager
def reads_answers_only(model: Any) -> Iterator[None]:
    """Have a language model answer TRL's loss with what it says of the learnt tokens, when it is called.

    TRL's own forward computes the last layer and the logits for prompts and padding, too (its head has all
    positions wherever there is no Triton), and hands on the mask of the padding, which no row that is padded
    behind its end needs. Both took a third of a step on the built-in task.
    """

    def forward(self: Any, input_ids: torch.Tensor, labels: torch.Tensor, **more: Any) -> Answers:
        learnt = labels[:, 1:] != -100
        row, before = learnt.nonzero(as_tuple=True)
        states = hidden_states(self, input_ids, row * input_ids.shape[1] + before)
        logprobs, entropy, likeliest = choices(self, states, labels[:, 1:][learnt])
        return Answers(logprobs, entropy, likeliest, learnt[learnt])

    before = model.forward
    model.forward = MethodType(forward, model)
    try:
        yield
    finally:
        model.forward = before


def sft(
    policy: Policy,
    demonstrations: Sequence[dict[str, Any]],
    *,
    checkpoints: Path,
    seed: int,
    epochs: float,
    batch_size: int,
    learning_rate: float,
    save_every: int,
    learn: str = "last",
    gradient_checkpointing: bool = False,
    precision: str = "auto",
    curve: Curve | None = None,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """Fine-tune `policy` in place on demonstrations of split `train`; returns its loss curve.

    Its adapters learn if it has some, otherwise all weights do, in float32.

    Args:
        batch_size: over all processes; each takes its share of the same batches in the same order.
        learn: which assistant turns of a conversation are learnt, `last` or `all`; see `examples`.
        gradient_checkpointing: compute activations twice in place of keeping them.
        precision: of the arithmetic, see `rlhf.compute.arithmetic`.

    Raises:
        DataError: no demonstration to train on, or a batch that the processes cannot share.
    """
    encoded: dict[str, list[np.ndarray]] = {"input_ids": [], "labels": []}
    training = (row for row in demonstrations if row["split"] == "train")
    for rows in portions(training, IN_HAND):  # of which only the ids are kept, in four bytes each
        for name, ids in examples(policy, rows, learn).items():
            encoded[name] += [np.array(row, np.int32) for row in ids]
    if not encoded["input_ids"]:
        raise DataError("there are no demonstrations of split 'train' to fine-tune on")
    share_of(batch_size, "sft.batch_size")
    batch_size = batch_within(batch_size, len(encoded["input_ids"]), "sft.batch_size")
    share = share_of(batch_size, "sft.batch_size")
    steps = math.ceil(epochs * len(encoded["input_ids"]) / batch_size)
    args = SFTConfig(
        **arguments(checkpoints, seed=seed, save_every=save_every),
        max_steps=steps,
        per_device_train_batch_size=share,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        max_length=None,  # `examples` has cut the prompts
        gradient_checkpointing=gradient_checkpointing,
    )
    shard_on_cpus()
    trainer = OrderedSFTTrainer(
        model=learner(policy, precision),
        args=args,
        train_dataset=Dataset.from_dict(encoded),
        processing_class=policy.tokenizer,
    )
    learns_in_float32(trainer)
    trainer.precision = precision
    if trainer.broken_weight() is None:  # else the first step names it
        check_head(policy.model)
    lengths = list(map(len, encoded["input_ids"]))
    trainer.order = reading_order(lengths, batch_size=batch_size, steps=steps, seed=seed)
    # The loss of a mixture of experts needs what its routers say, too: TRL's own forward asks them.
    answers = nullcontext() if trainer.aux_loss_enabled else reads_answers_only(policy.model)
    try:
        with answers:
            return train(trainer, curve, progress)
    finally:
        vars(policy.model).pop("forward", None)  # TRL's fused head: copies would run this model's


def validation_loss(
    policy: Policy, demonstrations: Sequence[dict[str, Any]], split: str = "validation"
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
                policy.model.device,
            )
            total -= response_logprobs(policy.model, batch, 1.0)[0].sum().item()
            tokens += len(batch.targets)
    return total / tokens
