"""The rows that are sampled side by side and what their model remembers of them: rows come and go.

`Slots` writes each new token's keys and values into place; rows that end make room for others at any step.
`Growing` is transformers' own cache, in which all rows begin together. It is for models that cache anything
else than the keys and values of all tokens, such as those with sliding windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from rlhf.models.attention import NAME as SHORT
from rlhf.models.attention import attends_to_all
from rlhf.models.batches import left_pad, positions, token_batches
from rlhf.models.logprobs import last_layer_only

READ_TOKENS = 4096  # of prompts that are read in one pass, padding included
CACHE_BYTES = 1 << 30  # on a CPU, more rows at once cost memory and gain nothing
SLACK = 16  # columns behind the widest row: so many tokens are written before the rows are moved
MOVED = 1 << 22  # numbers that are moved at a time

Prompts = Sequence[Sequence[int]]
Read = Iterator[tuple[list[int], torch.Tensor]]  # which of the prompts, their logits [rows, vocabulary]


class Rows(Protocol):
    """The rows of a batch, numbered from 0 in the order in which `join` yielded and `keep` ordered them."""

    most: int  # rows at once

    def room(self, rows: int) -> int:
        """How many rows may join `rows` others now."""

    def join(self, prompts: Prompts) -> Read:
        """Read prompts, a few at a time; each is a row from then on, and the same prompt is read once."""

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read the next token of each row, [rows]; returns the logits behind it, [rows, vocabulary]."""

    def keep(self, left: torch.Tensor) -> torch.Tensor:
        """Drop rows where `left` [rows] is False; returns which old rows the new ones are."""


def rows_for(model: Any, prompts: Prompts, *, pad: int, longest: int, most: int, in_place: bool) -> Rows:
    """Rows for responses of up to `longest` tokens, at most `most` at once."""
    if not in_place:
        return Growing(model, pad, most)
    width = max(map(len, prompts)) + longest
    if model.device.type == "cpu":
        most = min(most, max(16, CACHE_BYTES // (width * _bytes_per_token(model))))
    return Slots(model, pad, most)


def takes_slots(model: Any) -> bool:
    """Whether all layers of a model keep keys and values of all tokens, and take a mask as it is."""
    return attends_to_all(model) and model.config._attn_implementation in ("sdpa", SHORT)


def _bytes_per_token(model: Any) -> int:
    config = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * kv_heads * width * model.dtype.itemsize)


class Layer(CacheLayerMixin):
    """Keys and values of one layer, each [rows, heads, columns, width] at the start of a buffer that is kept.

    Rows lie close together, because attention reads them one behind the other: with a gap between them,
    narrow heads took twice as long.
    """

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self.slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make room; zeros, because attention multiplies by 0 what is masked."""
        self.shapes = [(new.shape[1], new.shape[3]) for new in (key_states, value_states)]
        self.keys, self.values = (
            new.new_zeros(self._numbers(shape, self.slots.columns))
            for new, shape in zip((key_states, value_states), self.shapes, strict=True)
        )
        self.is_initialized = True

    def _numbers(self, shape: tuple[int, int], columns: int) -> int:
        return self.slots.most * shape[0] * columns * shape[1]

    def parts(self) -> list[torch.Tensor]:
        """Keys and values, [most rows, heads, columns, width]."""
        return [
            self._view(part, shape, self.slots.columns)
            for part, shape in zip((self.keys, self.values), self.shapes, strict=True)
        ]

    def _view(self, part: torch.Tensor, shape: tuple[int, int], columns: int) -> torch.Tensor:
        return part[: self._numbers(shape, columns)].view(-1, shape[0], columns, shape[1])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens; returns what their rows attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        slots = self.slots
        copies, rows, end, n = slots.copies, slots.rows, slots.end, key_states.shape[2]
        keys, values = self.parts()
        if copies is None:
            keys[:rows, :, end : end + 1] = key_states
            values[:rows, :, end : end + 1] = value_states
            return keys[:rows], values[:rows]
        new = slice(rows, rows + len(copies))
        keys[new, :, end - n : end] = key_states[copies]
        values[new, :, end - n : end] = value_states[copies]
        return key_states, value_states  # a prompt attends to itself alone

    def move(self, columns: int, here: slice, there: slice) -> None:
        """Lay the rows out with another number of columns, and with what they hold in other ones."""
        self.keys, self.values = (
            self._moved(part, shape, columns, here, there)
            for part, shape in zip((self.keys, self.values), self.shapes, strict=True)
        )

    def _moved(
        self, part: torch.Tensor, shape: tuple[int, int], columns: int, here: slice, there: slice
    ) -> torch.Tensor:
        slots, numbers = self.slots, self._numbers(shape, columns)
        to = part if numbers <= len(part) else part.new_zeros(numbers)
        old, new = self._view(part, shape, slots.columns), self._view(to, shape, columns)
        at_once = max(1, MOVED // old[0].numel())
        starts = range(0, slots.rows, at_once)
        # In this order nothing is overwritten before it has been moved.
        for start in starts if columns <= slots.columns else reversed(starts):
            some = slice(start, min(start + at_once, slots.rows))
            new[some, :, there] = old[some, :, here].clone()
        return to

    def get_seq_length(self) -> int:
        """Tokens before those that are read now."""
        return self.slots.end if self.slots.copies is None else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Tokens that are attended to, and the first of them."""
        return (self.slots.columns if self.slots.copies is None else query_length), 0

    def get_max_length(self) -> int:
        """There is no end: columns are added."""
        return -1


class Slots:
    """Rows that all end at the same column of a buffer, and begin each where its prompt does.

    Attributes:
        columns: how many there are, more or less as the rows need them.
        end: the column that the next token is written to; everything of a row lies right before it.
        width: tokens of the widest row.
        lengths: tokens of each row, [rows].
        copies: while prompts are read, which of them each new row begins with; else None.
    """

    def __init__(self, model: Any, pad: int, most: int) -> None:
        self.model, self.pad, self.most = model, pad, most
        self.rows = self.columns = self.end = self.width = 0
        self.lengths = torch.empty(0, dtype=torch.long, device=model.device)
        self.copies: torch.Tensor | None = None
        self.layers = [Layer(self) for _ in DynamicCache(config=model.config).layers]
        self.cache = Cache(layers=list(self.layers))
        # What a pass costs besides its tokens, in tokens: small models spend most of it between operations.
        self.overhead = max(32, 10**8 // model.num_parameters())

    def room(self, rows: int) -> int:
        """A few free rows are not worth a pass: a quarter of all."""
        free = self.most - rows
        return free if not rows or free >= self.most / 4 else 0

    def join(self, prompts: Prompts) -> Read:
        """Read the prompts in passes of like length."""
        rows: dict[tuple[int, ...], list[int]] = {}
        for i, prompt in enumerate(prompts):
            rows.setdefault(tuple(prompt), []).append(i)
        different = list(rows)
        for group in token_batches([len(ids) for ids in different], READ_TOKENS, self.overhead):
            which = [i for k in group for i in rows[different[k]]]
            copies = [at for at, k in enumerate(group) for _ in rows[different[k]]]
            yield which, self._read([different[k] for k in group], copies)

    def _read(self, prompts: Prompts, copies: list[int]) -> torch.Tensor:
        device = self.model.device
        ids, mask = (x.to(device) for x in left_pad(prompts, self.pad))
        longest = ids.shape[1]
        if longest > self.end:
            self._move(longest)
        self.copies = torch.tensor(copies, device=device)
        last = torch.arange(1, len(ids) + 1, device=device) * longest - 1
        with last_layer_only(self.model.base_model, last):
            logits = self._forward(ids, mask, positions(mask))
        lengths, self.copies = mask.sum(1)[self.copies], None
        self.rows, self.lengths = self.rows + len(copies), torch.cat([self.lengths, lengths])
        self.width = max(self.width, longest)
        return logits[copies]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Write a token of each row into the next column."""
        if self.end == self.columns:
            self._move(self.width)
        self.width += 1
        column = torch.arange(self.columns, device=tokens.device)
        mask = ((column >= self.end - self.lengths.unsqueeze(1)) & (column <= self.end))[:, None, None]
        logits = self._forward(tokens.unsqueeze(1), mask, self.lengths.unsqueeze(1))
        self.lengths, self.end = self.lengths + 1, self.end + 1
        return logits

    def keep(self, left: torch.Tensor) -> torch.Tensor:
        """Let the last rows take the places of those that are dropped."""
        rows = int(left.sum())
        order = torch.arange(rows, device=left.device)
        free, last = (~left[:rows]).nonzero().squeeze(1), left[rows:].nonzero().squeeze(1) + rows
        if len(free):
            order[free] = last
            used = slice(self.end - self.width, self.end)
            for layer in self.layers:
                for part in layer.parts():
                    part[:, :, used].index_copy_(0, free, part[last, :, used])
        self.rows, self.lengths = rows, self.lengths[order]
        self.width = int(self.lengths.max()) if rows else 0
        return order

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Logits behind the last token of each row, [rows, vocabulary]."""
        return _last_logits(self.model, ids, mask, position, self.cache)

    def _move(self, end: int) -> None:
        """Move the rows so that they end at column `end`, at least their width, with room behind it."""
        columns = end + SLACK
        here, there = slice(self.end - self.width, self.end), slice(end - self.width, end)
        for layer in self.layers:
            if layer.is_initialized:
                layer.move(columns, here, there)
        self.columns, self.end = columns, end


class Growing:
    """Rows that begin together, in transformers' own cache; a row that has ended stays in it for a while."""

    def __init__(self, model: Any, pad: int, most: int) -> None:
        self.model, self.pad, self.most = model, pad, most
        self.cache: Any = None
        self.mask = self.position = self.left = torch.empty(0)

    def room(self, rows: int) -> int:
        """Nobody joins rows that have begun."""
        return 0 if rows else self.most

    def join(self, prompts: Prompts) -> Read:
        """Read the prompts in one pass."""
        device = self.model.device
        number: dict[tuple[int, ...], int] = {}  # of each different prompt
        which = torch.tensor([number.setdefault(tuple(row), len(number)) for row in prompts], device=device)
        ids, self.mask = (x.to(device) for x in left_pad(list(number), self.pad))
        self.cache, self.position = DynamicCache(config=self.model.config), positions(self.mask)
        self.left = torch.arange(len(prompts), device=device)  # the rows of the cache that go on
        logits = self._forward(ids)
        if len(number) < len(prompts):  # each response goes on from its prompt by itself
            logits = logits[which]
            self._select(which)
        yield list(range(len(prompts))), logits

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read a token of each row; those that have ended read padding."""
        ids = tokens.new_full((len(self.mask), 1), self.pad)
        ids[self.left, 0] = tokens
        self.position = self.position[:, -1:] + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(ids), 1)], 1)
        return self._forward(ids)[self.left]

    def keep(self, left: torch.Tensor) -> torch.Tensor:
        """Forget the rows; keeping a few finished rows costs less than copying the cache."""
        self.left = self.left[left]
        if 0 < len(self.left) <= 0.75 * len(self.mask):
            self._select(self.left)
            self.left = torch.arange(len(self.left), device=left.device)
        return left.nonzero().squeeze(1)

    def _select(self, rows: torch.Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.mask, self.position = self.mask[rows], self.position[rows]

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        return _last_logits(self.model, ids, self.mask, self.position, self.cache)


def _last_logits(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor, cache: Cache
) -> torch.Tensor:
    """Logits behind the last token of each row, [rows, vocabulary]."""
    logits: torch.Tensor = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    return logits
