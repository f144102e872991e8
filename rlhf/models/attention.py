"""Causal self-attention on CPUs, in products of small matrices.

PyTorch's own CPU kernel (`scaled_dot_product_attention`) is made for long sequences. For some hundred tokens
three batched products and a softmax, a few sequences at a time so that their scores stay in the cache, take
two thirds of its time, forward and backward (figures in dev/LOG.md). Sequences may also lie one behind the
other in one row, each attending to itself alone.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "short_sequences"
ENDS = "cu_seq_lens_q"  # what transformers calls the ends of the sequences of a row, 0 before the first
# Tokens; from about 500 on PyTorch's kernel is as fast, and from about 200 on where vectors are of 32 bytes.
LONGEST = 384 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 192
SCORES = 1 << 19  # of so many at a time, 2 MB


def use_short_attention(model: Any) -> None:
    """Let a model on a CPU compute its attention as here wherever that is faster.

    Only models that transformers runs with `sdpa` change. Nothing of it is saved with the model.
    """
    if model.device.type == "cpu" and getattr(model.config, "_attn_implementation", None) == "sdpa":
        model.set_attn_implementation(NAME)


def uses_short_attention(model: Any) -> bool:
    return bool(getattr(model.config, "_attn_implementation", None) == NAME)


def attends_to_all(model: Any) -> bool:
    """Whether in all layers of a model a token attends to all tokens before it, so that none has a window."""
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as `transformers` asks for it: of queries [rows, heads, tokens, width] and keys and values of
    as many heads or fewer, [rows, tokens, heads, width]. What is unknown here goes to PyTorch's kernel."""
    tokens, ends = query.shape[2], more.get(ENDS)
    if query.dtype != value.dtype == torch.bfloat16 and torch.is_autocast_enabled("cpu"):
        # Rotary embeddings are in float32; autocast would narrow what they gave for PyTorch's kernel, too.
        query, key = query.bfloat16(), key.bfloat16()
    causal = attention_mask is None and (
        getattr(module, "is_causal", True) if is_causal is None else is_causal
    )
    added = attention_mask is not None and attention_mask.is_floating_point() and attention_mask.shape[1] == 1
    short = (ends is not None or 1 < tokens <= LONGEST) and key.shape[2] == tokens
    short = short and value.shape[-1] == query.shape[-1]
    same = query.dtype == key.dtype == value.dtype in (torch.float32, torch.bfloat16)
    unknown = dropout or any(more.get(name) for name in _MORE)
    known = causal or added or ends is not None
    if unknown or not (short and same and known) or query.device.type != "cpu":
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **more
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if ends is not None:  # the mask says the same for PyTorch's kernel
        return _Attention.apply(query, key, value, None, scale, _sequences(ends.tolist())), None
    mask = _before(tokens) if attention_mask is None else attention_mask
    return _Attention.apply(query, key, value, mask, scale, _rows(query)), None


# What PyTorch's kernel is given besides; transformers hands on more, which means nothing there either.
_MORE = {"position_bias", "softcap", "cache", "output_attentions"}


def _before(tokens: int) -> torch.Tensor:
    """What is added to the scores so that a token sees none that come after it, [1, 1, tokens, tokens]."""
    return torch.full((tokens, tokens), float("-inf")).triu_(1)[None, None]


Portion = tuple[slice, slice]  # rows, and tokens of them, that attend to each other


class _Attention(torch.autograd.Function):
    """softmax(scale * q k^T + mask) v of [rows, heads, tokens, width] each; [rows, tokens, heads, width].

    In bfloat16 the scores and their softmax are in float32, as in PyTorch's kernel. The mask is None where
    tokens see all that come before them in their portion.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
        portions: list[Portion],
    ) -> torch.Tensor:
        rows, heads, all_tokens, width = q.shape
        ctx.scale, ctx.portions = scale, portions
        out = q.new_empty(rows, all_tokens, heads, width)
        weights = []
        with torch.autocast("cpu", enabled=False):
            for some, span in portions:
                a, b, c = (_flat(x[some, :, span]) for x in (q, k, v))
                tokens = a.shape[1]
                p = torch.bmm(a.float(), b.float().transpose(1, 2)).mul_(scale)
                seen = _before(tokens) if mask is None else mask[some] if len(mask) > 1 else mask
                p.view(-1, heads, tokens, tokens).add_(seen)
                p = torch.softmax(p, -1, out=p).to(q.dtype)
                out[some, span] = torch.bmm(p, c).view(-1, heads, tokens, width).transpose(1, 2)
                weights.append(p)
        ctx.save_for_backward(q, k, v, *weights)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, *weights = ctx.saved_tensors
        rows, heads, tokens, width = q.shape
        grads = [q.new_empty(rows, tokens, heads, width).transpose(1, 2) for _ in range(3)]
        g = gradients[0].transpose(1, 2)
        for (some, span), p in zip(ctx.portions, weights, strict=True):
            a, b, c, d = (_flat(x[some, :, span]) for x in (q, k, v, g))
            scores = torch.bmm(d, c.transpose(1, 2)).float()
            scores = torch._softmax_backward_data(scores, p.float(), -1, torch.float32)
            scores = scores.mul_(ctx.scale).to(q.dtype)
            parts = (
                torch.bmm(scores, b),
                torch.bmm(scores.transpose(1, 2), a),
                torch.bmm(p.transpose(1, 2), d),
            )
            for grad, part in zip(grads, parts, strict=True):
                grad[some, :, span] = part.view(-1, heads, part.shape[1], width)
        return (*grads, None, None, None)


def _flat(part: torch.Tensor) -> torch.Tensor:
    """[rows, heads, tokens, width] as [rows * heads, tokens, width]."""
    return part.reshape(-1, *part.shape[2:])


def _rows(query: torch.Tensor) -> list[Portion]:
    """A few rows at a time, whole."""
    rows, heads, tokens, _ = query.shape
    at_once = max(1, SCORES // (heads * tokens * tokens))
    return [(slice(i, i + at_once), slice(None)) for i in range(0, rows, at_once)]


def _sequences(ends: list[int]) -> list[Portion]:
    """The sequences of a row, one at a time; `ends` are where they end, with 0 before the first."""
    return [(slice(None), slice(start, end)) for start, end in itertools.pairwise(ends)]


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
