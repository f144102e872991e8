"""The reward model: from rankings to one score a response, with TRL's `RewardTrainer`.

All pairs of a ranking are one batch element (Ouyang et al. 2022, section 3.5: shuffled pairs overfit). So K
responses are read once for up to K(K-1)/2 pairs, and their common prompt once for all K. Ties give no pair.

A vote, a thumb on one response, is a pair with an imaginary response of score 0: up is better than it, down
is worse. That is the cross-entropy of a binary classifier whose logit is the score, as in binary classifier
optimization (Jung et al. 2024, arXiv:2404.04656), whose loss bounds that of the pairs nobody compared.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from types import MethodType
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from trl import RewardConfig, RewardTrainer

from rlhf.compute import shard_on_cpus
from rlhf.data.errors import DataError
from rlhf.data.portions import portions
from rlhf.data.rankings import pairs
from rlhf.data.table import IN_HAND
from rlhf.models.packing import batch_scores, check_scores, pack, side_by_side
from rlhf.models.reward_model import RewardModel, encode, score
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

ZERO = -1  # the place of the imaginary response of score 0, behind those of a batch
LAYOUT = ("input_ids", "position_ids", "attention_mask", "ends")  # what `pack` and `side_by_side` write


def contrasts(references: Sequence[Mapping[str, Any]], n: int, seed: int) -> list[dict[str, Any]]:
    """Rankings of each reference above n references of other prompts, which need no labeler.

    A model that saw only answers to their own prompts may learn to judge answers without reading the prompt.
    These pairs can be told apart by the prompt alone (Liu et al. 2024, arXiv:2409.13156, non-contextual
    pairs).

    Args:
        references: rows with `prompt` and `completion`.
        n: how many other references each stands above; seed: of the draw of these.
    """
    if n < 1 or len(references) < 2:
        return []
    rng = random.Random(f"contrast/{seed}")
    rows = []
    for row in references:
        others = [rng.choice(references)["completion"] for _ in range(n)]
        texts = list(dict.fromkeys([row["completion"], *others]))
        ranking = [1] + [2] * (len(texts) - 1)
        asked = {"prompt": row["prompt"], "messages": row.get("messages")}
        rows.append(asked | {"completions": texts, "ranking": ranking})
    return rows


class RankingTrainer(InOrder, InPrecision, RewardTrainer):
    """`RewardTrainer` on rankings: an example is the K sequences of one prompt and the pairs among them.

    The model is called as a whole, because DDP and FSDP act on that call, and answers with the scores of a
    batch; see `answers_with_scores`.
    """

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset  # `train_reward` has encoded it already

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns: Any = ["sequences", "pairs", "weight"]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Bradley-Terry loss: the weighted mean over prompts of the mean over the pairs of a prompt."""
        batch = {name: inputs[name] for name in LAYOUT if name in inputs}
        with self.arithmetic():
            scores = model(**batch)
        scores = torch.cat([scores, scores.new_zeros(1)])  # at ZERO
        margin = scores[inputs["better"]] - scores[inputs["worse"]]
        loss = -(logsigmoid(margin) * inputs["weight"]).sum()
        sums = torch.stack(
            [(margin > 0).float().sum(), margin.detach().sum(), margin.new_tensor(len(margin))]
        )
        right, total, pairs = self.accelerator.gather(sums).view(-1, 3).sum(0)
        metrics = self._metrics["train" if model.training else "eval"]
        metrics["accuracy"].append((right / pairs).item())
        metrics["margin"].append((total / pairs).item())
        return (loss, scores) if return_outputs else loss


@contextmanager
def answers_with_scores(model: Any) -> Iterator[None]:
    """Have a reward model return the scores of a batch of `LAYOUT`, [all sequences], when it is called."""
    model.forward = MethodType(lambda self, **batch: batch_scores(self, batch), model)
    try:
        yield
    finally:
        del model.forward  # the class's own again


def train_reward(
    reward: RewardModel,
    comparisons: Iterable[Mapping[str, Any]],
    *,
    checkpoints: Path,
    seed: int,
    epochs: float,
    batch_size: int,
    learning_rate: float,
    save_every: int,
    weights: Sequence[float] | None = None,
    votes: Iterable[Mapping[str, Any]] = (),
    gradient_checkpointing: bool = False,
    precision: str = "auto",
    curve: Curve | None = None,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """Train `reward` in place on comparisons and votes; returns its loss curve.

    Its adapters and its head learn if it has adapters, otherwise all weights do, in float32.

    Args:
        batch_size: over all processes; each takes its share of the same batches in the same order.
        weights: how much each comparison counts; weights with a mean of 1 keep the size of the steps.
        votes: rows with `prompt`, `messages`, `completion` and `label`; each counts 1.
        gradient_checkpointing: compute activations twice in place of keeping them.
        precision: of the arithmetic, see `rlhf.compute.arithmetic`; the head is always in float32.

    Raises:
        DataError: no comparison with a strict preference and no vote, or a batch that the processes cannot
            share.
    """
    share_of(batch_size, "reward.batch_size")
    examples, lengths = encoded_examples(reward, comparisons, weights, votes)
    batch_size = batch_within(batch_size, len(examples), "reward.batch_size")
    share = share_of(batch_size, "reward.batch_size")
    pad = reward.pad
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    packs = check_scores(reward.model, [examples[i]["sequences"] for i in (by_length[0], by_length[-1])], pad)
    layout = pack if packs else side_by_side
    if not packs:
        name = type(reward.model).__name__
        print(
            f"{name}: packed rankings would get other scores; each answer is read with its prompt",
            flush=True,
        )

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        better, worse, weight, offset = [], [], [], 0
        for row in rows:
            for a, b in row["pairs"]:
                better.append(a if a == ZERO else offset + a)
                worse.append(b if b == ZERO else offset + b)
                weight.append(row["weight"] / len(row["pairs"]) / len(rows))
            offset += len(row["sequences"])
        return layout([row["sequences"] for row in rows], pad) | {
            "better": torch.tensor(better),
            "worse": torch.tensor(worse),
            "weight": torch.tensor(weight),
        }

    steps = math.ceil(epochs * len(examples) / batch_size)
    args = RewardConfig(
        **arguments(checkpoints, seed=seed, save_every=save_every),
        max_steps=steps,
        per_device_train_batch_size=share,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=10,
        max_length=None,
        gradient_checkpointing=gradient_checkpointing,
    )
    shard_on_cpus()
    trainer = RankingTrainer(
        model=learner(reward, precision),
        args=args,
        train_dataset=examples,
        processing_class=reward.tokenizer,
        data_collator=collate,
    )
    learns_in_float32(trainer)
    trainer.precision = precision
    trainer.order = reading_order(lengths, batch_size=batch_size, steps=steps, seed=seed)
    with answers_with_scores(reward.model):
        return train(trainer, curve, progress)


def encoded_examples(
    reward: RewardModel,
    comparisons: Iterable[Mapping[str, Any]],
    weights: Sequence[float] | None,
    votes: Iterable[Mapping[str, Any]],
) -> tuple[Dataset, list[int]]:
    """What the reward model learns from, as ids: of the rows only some are in hand at a time.

    Returns:
        the examples, each with `sequences` (ids of each completion behind its prompt), `pairs` (of better and
        worse ones) and `weight`; and the length of the longest sequence of each.

    Raises:
        DataError: no comparison with a strict preference and no vote.
    """
    ranked = (
        (row, row["completions"], strict, weight)
        for row, weight in (
            zip(comparisons, weights, strict=True) if weights else zip(comparisons, repeat(1.0))
        )
        if (strict := pairs(row["ranking"]))
    )
    voted = ((vote, [vote["completion"]], [(0, ZERO) if vote["label"] else (ZERO, 0)], 1.0) for vote in votes)
    batches, lengths = [], []
    for held in portions(chain(ranked, voted), IN_HAND):
        asked = [row for row, completions, _, _ in held for _ in completions]
        texts = [text for _, completions, _, _ in held for text in completions]
        encoded = iter(encode(reward, asked, texts))
        sequences = [[next(encoded) for _ in completions] for _, completions, _, _ in held]
        lengths += [max(map(len, of_row)) for of_row in sequences]
        columns = [sequences, [strict for _, _, strict, _ in held], [weight for *_, weight in held]]
        batches.append(pa.RecordBatch.from_pydict(dict(zip(_EXAMPLE.names, columns, strict=True)), _EXAMPLE))
    if not batches:
        raise DataError(
            "there is no comparison with a strict preference, and no vote, to train the reward model on"
        )
    return Dataset(pa.Table.from_batches(batches)), lengths


# Ids in four bytes each.
_EXAMPLE = pa.schema(
    {
        "sequences": pa.list_(pa.list_(pa.int32())),
        "pairs": pa.list_(pa.list_(pa.int64())),
        "weight": pa.float64(),
    }
)


def completion_scores(reward: RewardModel, comparisons: Sequence[Mapping[str, Any]]) -> list[float]:
    """The scores of all completions of all rows, one behind the other."""
    asked = [row for row in comparisons for _ in row["completions"]]
    return score(reward, asked, [text for row in comparisons for text in row["completions"]])


def accuracy(reward: RewardModel, comparisons: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Agreement of the reward model with labelers on comparisons that did not train it, by pair.

    Returns:
        for `all` and each labeler group: `accuracy`, `pairs`, `prefers_longer` (the share of pairs in which
        the model prefers the longer text) and `labelers_prefer_longer`; the last two are None if no pair
        differs in length.
    """
    scores = iter(completion_scores(reward, comparisons))
    counts: dict[str, list[tuple[bool, bool | None, bool | None]]] = {}
    for row in comparisons:
        own = [next(scores) for _ in row["completions"]]
        lengths = [len(text.split()) for text in row["completions"]]
        for a, b in pairs(row["ranking"]):
            right, longer = own[a] > own[b], lengths[a] > lengths[b]
            by_length = lengths[a] != lengths[b]
            result = (right, longer == right if by_length else None, longer if by_length else None)
            for group in ("all", row["labeler_group"] or "unknown"):
                counts.setdefault(group, []).append(result)
    return {group: _summary(results) for group, results in counts.items()}


def vote_quality(reward: RewardModel, votes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How well the scores tell thumbs up from thumbs down, on votes that did not train the reward model.

    Returns:
        `votes`, `up` (the share of thumbs up) and `auc`: how often a completion with a thumb up scores above
        one with a thumb down, a tie counting half (the area under the ROC curve); None where all votes agree.
    """
    from sklearn.metrics import roc_auc_score

    labels = [row["label"] for row in votes]
    scores = score(reward, votes, [row["completion"] for row in votes])
    both = len(set(labels)) == 2
    return {
        "votes": len(labels),
        "up": sum(labels) / len(labels),
        "auc": float(roc_auc_score(labels, scores)) if both else None,
    }


def _summary(results: list[tuple[bool, bool | None, bool | None]]) -> dict[str, Any]:
    model = [longer for _, longer, _ in results if longer is not None]
    people = [longer for _, _, longer in results if longer is not None]
    return {
        "accuracy": sum(right for right, _, _ in results) / len(results),
        "pairs": len(results),
        "prefers_longer": sum(model) / len(model) if model else None,
        "labelers_prefer_longer": sum(people) / len(people) if people else None,
    }
