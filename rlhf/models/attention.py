"""Causal self-attention on CPUs, in products of small matrices.

PyTorch's own CPU kernel (`scaled_dot_product_attention`) is made for long sequences. For some hundred tokens
three batched products and a softmax, a few sequences at a time so that their scores stay in the cache, take
two thirds of its time, forward and backward (figures in dev/LOG.md).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "short_sequences"
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
    tokens = query.shape[2]
    if query.dtype != value.dtype == torch.bfloat16 and torch.is_autocast_enabled("cpu"):
        # Rotary embeddings are in float32; autocast would narrow what they gave for PyTorch's kernel, too.
        query, key = query.bfloat16(), key.bfloat16()
    causal = attention_mask is None and (
        getattr(module, "is_causal", True) if is_causal is None else is_causal
    )
    added = attention_mask is not None and attention_mask.is_floating_point() and attention_mask.shape[1] == 1
    short = 1 < tokens <= LONGEST and key.shape[2] == tokens and value.shape[-1] == query.shape[-1]
    same = query.dtype == key.dtype == value.dtype in (torch.float32, torch.bfloat16)
    unknown = dropout or any(more.get(name) for name in _MORE)
    if unknown or not (short and same and (causal or added)) or query.device.type != "cpu":
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **more
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    mask = _before(tokens) if attention_mask is None else attention_mask
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _Attention.apply(query, key, value, mask, scale), None


# What PyTorch's kernel is given besides; transformers hands on more, which means nothing there either.
_MORE = {"position_bias", "softcap", "cache", "output_attentions"}


def _before(tokens: int) -> torch.Tensor:
    """What is added to the scores so that a token sees none that come after it, [1, 1, tokens, tokens]."""
    return torch.full((tokens, tokens), float("-inf")).triu_(1)[None, None]


class _Attention(torch.autograd.Function):
    """softmax(scale * q k^T + mask) v of [rows, heads, tokens, width] each; [rows, tokens, heads, width].

    In bfloat16 the scores and their softmax are in float32, as in PyTorch's kernel.
    """

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float
    ) -> torch.Tensor:
        rows, heads, tokens, width = q.shape
        ctx.scale, ctx.at_once = scale, max(1, SCORES // (heads * tokens * tokens))
        out = q.new_empty(rows, tokens, heads, width)
        weights = []
        with torch.autocast("cpu", enabled=False):
            for some in _portions(rows, ctx.at_once):
                a, b, c = (x[some].reshape(-1, tokens, width) for x in (q, k, v))
                p = torch.bmm(a.float(), b.float().transpose(1, 2)).mul_(scale)
                p.view(-1, heads, tokens, tokens).add_(mask[some] if len(mask) > 1 else mask)
                p = torch.softmax(p, -1, out=p).to(q.dtype)
                out[some] = torch.bmm(p, c).view(-1, heads, tokens, width).transpose(1, 2)
                weights.append(p)
        ctx.save_for_backward(q, k, v, *weights)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, *weights = ctx.saved_tensors
        rows, heads, tokens, width = q.shape
        grads = [q.new_empty(rows, tokens, heads, width).transpose(1, 2) for _ in range(3)]
        g = gradients[0].transpose(1, 2)
        for some, p in zip(_portions(rows, ctx.at_once), weights, strict=True):
            a, b, c, d = (x[some].reshape(-1, tokens, width) for x in (q, k, v, g))
            scores = torch.bmm(d, c.transpose(1, 2)).float()
            scores = torch._softmax_backward_data(scores, p.float(), -1, torch.float32)
            scores = scores.mul_(ctx.scale).to(q.dtype)
            parts = (
                torch.bmm(scores, b),
                torch.bmm(scores.transpose(1, 2), a),
                torch.bmm(p.transpose(1, 2), d),
            )
            for grad, part in zip(grads, parts, strict=True):
                grad[some] = part.view(-1, heads, tokens, width)
        return (*grads, None, None)


def _portions(rows: int, at_once: int) -> list[slice]:
    """The rows in slices of so many."""
    return [slice(i, i + at_once) for i in range(0, rows, at_once)]


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
