"""Rankings as tensors for a reward model: the sequences of a prompt packed into one row, or a row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from rlhf.data.errors import DataError
from rlhf.models.batches import last_positions, right_pad
from rlhf.models.logprobs import head_scores, hidden_states


def pack(examples: Sequence[Sequence[Sequence[int]]], pad: int) -> dict[str, torch.Tensor]:
    """One row for the K sequences of an example: their common start once, then the rest of each sequence.

    Returns:
        `input_ids` and `position_ids` [examples, tokens]; `attention_mask` [examples, 1, tokens, tokens],
        which is added to the attention logits, so that a token sees what it would see in its own sequence;
        `ends` [all sequences], the flat positions of their last tokens.

    Example:
        One example of two sequences that both start with 1 2: five tokens in place of seven.

        >>> packed = pack([[[1, 2, 7], [1, 2, 8, 9]]], pad=0)
        >>> packed["input_ids"]  # [1 example, 5 tokens]
        tensor([[1, 2, 7, 8, 9]])
        >>> packed["position_ids"]  # 8 and 9 stand where they stand in their own sequence
        tensor([[0, 1, 2, 2, 3]])
        >>> (packed["attention_mask"] == 0).int()[0, 0]  # [5, 5]; 1: the token of this row sees that column
        tensor([[1, 0, 0, 0, 0],
                [1, 1, 0, 0, 0],
                [1, 1, 1, 0, 0],
                [1, 1, 0, 1, 0],
                [1, 1, 0, 1, 1]], dtype=torch.int32)
        >>> packed["ends"]  # [2 sequences]: of 7 and of 9
        tensor([2, 4])
    """
    starts = [_common_start(rows) for rows in examples]
    longest = max(p + sum(len(row) - p for row in rows) for p, rows in zip(starts, examples, strict=True))
    shape = (len(examples), longest)
    ids, positions = torch.full(shape, pad), torch.zeros(shape, dtype=torch.long)
    owner = torch.full(shape, -1)  # 0 the common start, k the k-th sequence, -1 padding
    ends = []
    for i, (start, rows) in enumerate(zip(starts, examples, strict=True)):
        pieces = [(0, rows[0][:start], 0), *((k, row[start:], start) for k, row in enumerate(rows, start=1))]
        at = 0
        for k, piece, first in pieces:
            end = at + len(piece)
            ids[i, at:end] = torch.tensor(piece)
            positions[i, at:end] = torch.arange(first, first + len(piece))
            owner[i, at:end] = k
            at = end
            if k:
                ends.append(i * longest + end - 1)
    before = torch.ones(longest, longest, dtype=torch.bool).tril()
    own = owner.unsqueeze(2) == owner.unsqueeze(1)
    seen = before & (own | (owner == 0).unsqueeze(1))
    mask = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)
    return {
        "input_ids": ids,
        "position_ids": positions,
        "attention_mask": mask.unsqueeze(1),
        "ends": torch.tensor(ends),
    }


def side_by_side(examples: Sequence[Sequence[Sequence[int]]], pad: int) -> dict[str, torch.Tensor]:
    """A row for each sequence of all examples: `input_ids` [all sequences, longest] and `ends`."""
    ids, lengths = right_pad([row for rows in examples for row in rows], pad)
    return {"input_ids": ids, "ends": last_positions(ids, lengths)}


def batch_scores(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The scores of sequences that `pack` or `side_by_side` laid out, [all sequences]."""
    more = {key: batch[key] for key in ("attention_mask", "position_ids") if key in batch}
    if "attention_mask" in more:
        more["attention_mask"] = more["attention_mask"].to(model.dtype)
    return head_scores(model, hidden_states(model, batch["input_ids"], batch["ends"], **more))


@torch.no_grad()
def check_scores(model: Any, examples: Sequence[Sequence[Sequence[int]]], pad: int) -> bool:
    """Check that a sequence gets the same score beside others as alone.

    Returns:
        whether it does so packed, too. It does not if a layer reads more from the order of the tokens than
        the mask and the positions of `pack` say, as a layer with a sliding window does.

    Raises:
        DataError: a sequence that is padded behind its end gets another score beside others than alone.
    """
    training = model.training
    model.eval()
    bodies = (
        model.base_model(input_ids=torch.tensor([row], device=model.device), use_cache=False)
        for rows in examples
        for row in rows
    )
    alone = torch.cat([head_scores(model, body.last_hidden_state[:, -1]) for body in bodies])

    def agrees(layout: Callable[..., dict[str, torch.Tensor]]) -> bool:
        batch = {name: tensor.to(model.device) for name, tensor in layout(examples, pad).items()}
        tolerance = 2e-3 if model.dtype == torch.float32 else 0.1
        return torch.allclose(batch_scores(model, batch), alone, rtol=tolerance, atol=tolerance)

    try:
        packed = agrees(pack)
    except (IndexError, RuntimeError, TypeError, ValueError):
        packed = False  # the body takes no such mask
    if not packed and not agrees(side_by_side):
        raise DataError(
            f"{type(model).__name__}: a sequence scores otherwise beside others than alone; "
            "this kind of model cannot be trained as a reward model here"
        )
    model.train(training)
    return packed


def _common_start(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows have in common at their start; each row keeps at least one of its own."""
    shortest = min(map(len, rows)) - 1
    return next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)
