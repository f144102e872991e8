"""Sequences side by side as tensors: padding, positions, batches of like length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


def left_pad(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, both [rows, longest row], with the padding before the rows."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[i, longest - len(row) :] = 1
    return ids, mask


def right_pad(rows: Sequence[Sequence[int] | np.ndarray], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [rows, longest row], with the padding behind the rows, and the lengths of the rows."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = np.full((len(rows), int(lengths.max())), pad, np.int64)  # a row at a time is slow in tensors
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return torch.from_numpy(ids), lengths


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position ids [rows, tokens] that count from 0 at each row's first real token."""
    return (mask.cumsum(-1) - 1).clamp_min(0)


@dataclass
class Batch:
    """Sequences side by side, padded behind their ends.

    Causal attention then needs no mask, and the results of a row do not depend on its neighbours.

    Attributes:
        ids: [rows, longest].
        lengths: tokens of each row without the padding, [rows].
        before: flat positions of the states that predict the response tokens, row by row, [tokens], each in
            range(rows * longest).
        targets: the response tokens, [tokens].
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    before: torch.Tensor
    targets: torch.Tensor


def batch_of(
    rows: Sequence[Sequence[int]], starts: Sequence[int], pad: int, device: torch.device | str = "cpu"
) -> Batch:
    """A batch of sequences whose responses begin at `starts` (at least 1) and last to their ends.

    The state at a position predicts the next token, so the state that predicts a response token is the one
    before it.

    Example:
        Two sequences, [2 rows, 4 longest]; the response of the first is 7 8, that of the second is 9.

        >>> batch = batch_of([[5, 6, 7, 8], [5, 9]], starts=[2, 1], pad=0)
        >>> batch.ids
        tensor([[5, 6, 7, 8],
                [5, 9, 0, 0]])
        >>> batch.lengths
        tensor([4, 2])
        >>> batch.before  # [3 response tokens], into the 2 * 4 flat positions: those of 6, 7 and 5
        tensor([1, 2, 4])
        >>> batch.targets  # [3 response tokens]
        tensor([7, 8, 9])
    """
    ids, lengths = right_pad(rows, pad)
    longest = ids.shape[1]
    before = torch.cat(
        [
            torch.arange(i * longest + start - 1, i * longest + len(row) - 1)
            for i, (row, start) in enumerate(zip(rows, starts, strict=True))
        ]
    )
    targets = ids.flatten()[before + 1]
    return Batch(ids.to(device), lengths.to(device), before.to(device), targets.to(device))


def token_batches(lengths: Sequence[int], budget: int, overhead: int | None = None) -> list[list[int]]:
    """Indices in groups of like length, each of at most `budget` tokens with padding, or of a single row.

    Args:
        overhead: what one more group costs, in tokens; the groups chosen have the least padded tokens and
            overhead in total. None fills each group as far as the budget allows.

    Example:
        Four rows. One group of all four holds 4 * 10 tokens, padding included, and fits into the budget; two
        groups hold 2 * 10 + 2 * 3, which is cheaper where another group costs less than 14 tokens.

        >>> token_batches([3, 10, 3, 10], budget=40)
        [[1, 3, 0, 2]]
        >>> token_batches([3, 10, 3, 10], budget=40, overhead=2)
        [[1, 3], [0, 2]]
        >>> token_batches([3, 10, 3, 10], budget=8)  # a row longer than the budget is a group of its own
        [[1], [3], [0, 2]]
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    if overhead is None:
        groups: list[list[int]] = []
        longest = 0
        for i in order:
            if groups and longest * (len(groups[-1]) + 1) <= budget:
                groups[-1].append(i)
            else:
                groups.append([i])
                longest = lengths[i]
        return groups
    # least[end] is the cost of the first `end` rows, start[end] where the last of their groups begins.
    least, start = [0.0] + [math.inf] * len(order), [0] * (len(order) + 1)
    for begin, i in enumerate(order):
        for end in range(begin + 1, max(begin + 1, begin + budget // max(1, lengths[i])) + 1):
            if end > len(order):
                break
            cost = least[begin] + lengths[i] * (end - begin) + overhead
            if cost < least[end]:
                least[end], start[end] = cost, begin
    groups, end = [], len(order)
    while end:
        groups.append(order[start[end] : end])
        end = start[end]
    return groups[::-1]


def row_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in groups of like length, each of at most `budget` tokens without padding, or of a single row.

    The groups are few and have about as many tokens each.

    Example:
        24 tokens need two groups of at most 20: of 10 and of 14.

        >>> row_batches([3, 10, 3, 8], budget=20)
        [[1], [3, 0, 2]]
        >>> row_batches([3, 10, 3, 8], budget=30)
        [[1, 3, 0, 2]]
    """
    left = sum(lengths)
    groups: list[list[int]] = []
    full = fair = 0.0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not groups or full + lengths[i] > budget or full + lengths[i] / 2 > fair:
            groups.append([])
            full, fair = 0, left / math.ceil(left / budget)
        groups[-1].append(i)
        full += lengths[i]
        left -= lengths[i]
    return groups


def last_positions(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The flat position of the last real token of each right-padded row, [rows]."""
    return torch.arange(len(ids), device=ids.device) * ids.shape[1] + lengths - 1
