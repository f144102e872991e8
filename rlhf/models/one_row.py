"""Sequences without padding: one behind the other in one row, each attending to itself alone.

Products of large matrices are fast on CPUs with many tokens at a time, and a tenth of the tokens is padding
even where sequences of like length go together (figures in dev/LOG.md).
"""

from __future__ import annotations

import weakref
from typing import Any

import torch

from rlhf.models.attention import ENDS, LONGEST, attends_to_all, uses_short_attention

# Below this width a model spends its time on starting operations, and of those one row has more.
WIDE = 256
# A row is filled up to a multiple of this. oneDNN makes a product of its own for each number of tokens.
MULTIPLE = 64
# Of a row, at most. The mask, which only PyTorch's kernel reads, has the square of them.
TOKENS = 4096


def one_row(
    ids: torch.Tensor, at: torch.Tensor, lengths: torch.Tensor
) -> tuple[dict[str, Any], torch.Tensor]:
    """What a model's body takes in place of right-padded ids, and where the flat positions `at` are there.

    Returns:
        `input_ids` and `position_ids` [1, tokens], `attention_mask` [1, 1, tokens, tokens], and the ends of
        the sequences for the attention of ours; positions in the row, [len(at)].

    Example:
        Two sequences, [2 rows, 4 longest], without padding, and up to the next multiple of 64:

        >>> ids = torch.tensor([[5, 6, 7, 8], [5, 9, 0, 0]])
        >>> inputs, at = one_row(ids, torch.tensor([2, 4, 5]), torch.tensor([4, 2]))
        >>> inputs["input_ids"][0, :8]
        tensor([5, 6, 7, 8, 5, 9, 0, 0])
        >>> inputs["position_ids"][0, :8]
        tensor([0, 1, 2, 3, 0, 1, 0, 1])
        >>> inputs["cu_seq_lens_q"]
        tensor([ 0,  4,  6, 64])
        >>> at
        tensor([2, 4, 5])
    """
    place = torch.arange(ids.shape[1], device=ids.device)
    real = place < lengths.unsqueeze(1)
    row = ids[real]
    rest = -len(row) % MULTIPLE
    widths = torch.cat([lengths, lengths.new_tensor([rest])]) if rest else lengths
    sequence = torch.repeat_interleave(torch.arange(len(widths), device=ids.device), widths)
    ends = torch.cat([widths.new_zeros(1), widths.cumsum(0)])
    inputs = {
        "input_ids": torch.cat([row, row.new_zeros(rest)]).unsqueeze(0),
        "position_ids": (torch.arange(len(sequence), device=ids.device) - ends[sequence]).unsqueeze(0),
        "attention_mask": (sequence.unsqueeze(1) == sequence).tril()[None, None],
        ENDS: ends,
    }
    return inputs, (real.flatten().cumsum(0) - 1)[at]


def takes_one_row(model: Any) -> bool:
    """Whether a model computes a sequence in a row with others as alone, and faster than side by side."""
    if model.device.type != "cpu" or not uses_short_attention(model) or not attends_to_all(model):
        return False
    if model.config.get_text_config(decoder=True).hidden_size < WIDE:
        return False
    if model not in _AGREES:
        _AGREES[model] = _agrees(model)
    return _AGREES[model]


_AGREES: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()  # asked at a model's first use


def fits_one_row(lengths: torch.Tensor) -> bool:
    """Whether the attention of ours is made for sequences of these lengths, several and not too many."""
    return len(lengths) > 1 and int(lengths.max()) <= LONGEST and int(lengths.sum()) <= TOKENS


@torch.no_grad()
def _agrees(model: Any) -> bool:
    """Whether sequences have the same last states in a row as side by side, by the attention of ours."""
    training, vocabulary = model.training, model.get_input_embeddings().weight.shape[0]
    model.eval()
    ids = torch.randint(vocabulary, (2, 7), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([7, 4])
    inputs, at = one_row(ids, torch.tensor([*range(7), *range(7, 11)]), lengths)
    # With a mask that hides everything, attention that does not go by the ends gives other states.
    inputs["attention_mask"] = torch.eye(inputs["input_ids"].shape[1], dtype=torch.bool)[None, None]
    try:
        with torch.autocast("cpu", enabled=False):
            beside = model.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[:11]
            in_row = model.base_model(**inputs, use_cache=False).last_hidden_state[0, at]
    except (IndexError, RuntimeError, TypeError, ValueError):
        return False  # it takes no such inputs
    finally:
        model.train(training)
    tolerance = 2e-3 if model.dtype == torch.float32 else 0.1
    return torch.allclose(in_row.float(), beside.float(), rtol=tolerance, atol=tolerance)
