"""The order in which a training reads its examples, a function of the seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rlhf.training.checkpoints import LearningWeights


class InOrder(LearningWeights):
    """Mixin of a `Trainer` that reads its examples in a fixed order, as a single epoch.

    The library's length-grouped sampler draws from the global random state. A resumed run has not advanced
    that state as the first run had, so it would read its second epoch in another order.

    Attributes:
        order: indices of the examples, batch after batch; see `reading_order`.
    """

    order: list[int]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.order


def reading_order(lengths: Sequence[int], *, batch_size: int, steps: int, seed: int) -> list[int]:
    """Indices for `steps` batches: random passes over the examples, each batch of examples of like length.

    Examples are sorted by length within every 50 batches, as in the sampler of `transformers`; the batches
    then come in random order.

    Returns:
        [steps * batch_size].
    """
    order: list[int] = []
    generator = torch.Generator().manual_seed(seed)
    while len(order) < steps * batch_size:
        shuffled = torch.randperm(len(lengths), generator=generator).tolist()
        near = 50 * batch_size
        ranked = [
            i
            for start in range(0, len(shuffled), near)
            for i in sorted(shuffled[start : start + near], key=lambda i: lengths[i])
        ]
        batches = [ranked[start : start + batch_size] for start in range(0, len(ranked), batch_size)]
        whole = [batch for batch in batches if len(batch) == batch_size]
        rest = [i for batch in batches if len(batch) < batch_size for i in batch]
        order += [
            i for b in torch.randperm(len(whole), generator=generator).tolist() for i in whole[b]
        ] + rest
    return order[: steps * batch_size]
