"""Faster layers have the outputs and the gradients of those that they stand for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlhf.models.fast_layers import speed_up

IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def model_of(kind: str) -> Any:
    """A small model whose norms have weights other than 1."""
    torch.manual_seed(0)
    model: Any = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL)),
        "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SMALL)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2)),
    }[kind]().eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(torch.randn_like(p) / 4)
    return model


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(input_ids=IDS).logits.logsumexp(-1).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("kind", "norms"), [("llama", 5), ("qwen3", 9), ("gemma3", 0), ("gpt2", 0)])
def test_outputs_and_gradients_are_the_same(kind: str, norms: int) -> None:
    model = model_of(kind)
    fast = copy.deepcopy(model)
    assert speed_up(fast) == norms
    assert speed_up(fast) == 0  # those that are fast already stay so
    with torch.no_grad():
        assert torch.equal(fast(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert torch.equal(fast(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert fast.state_dict().keys() == model.state_dict().keys()
    ours, theirs = gradients(copy.deepcopy(fast)), gradients(model)
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, atol=1e-5, rtol=1e-4)


def test_in_float64_gradients_agree_to_the_last_digits() -> None:
    model = model_of("llama")
    fast = copy.deepcopy(model)
    speed_up(fast)
    # transformers' norm computes in float32 whatever its input is, so one in float64 stands for it.
    for layer in [m for m in model.modules() if type(m).__name__ == "LlamaRMSNorm"]:
        layer.forward = lambda x, m=layer: torch.rms_norm(x, x.shape[-1:], m.weight, m.variance_epsilon)
    ours, theirs = gradients(fast.double()), gradients(model.double())
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, atol=1e-12, rtol=1e-12)


def test_a_frozen_norm_and_one_whose_input_needs_no_gradient() -> None:
    for frozen in ("weight", "states"):
        both = []
        for fast in (False, True):
            norm = model_of("llama").model.norm
            if fast:
                assert speed_up(norm) == 1
            norm.weight.requires_grad_(frozen != "weight")
            states = torch.linspace(-1, 2, 32).view(2, 16).requires_grad_(frozen != "states")
            norm(states).pow(3).sum().backward()
            both.append(norm.weight.grad if frozen == "states" else states.grad)
        torch.testing.assert_close(*both)


def test_other_types_take_the_plain_way() -> None:
    model = model_of("llama")
    fast = copy.deepcopy(model)
    speed_up(fast)
    assert torch.equal(fast.bfloat16()(input_ids=IDS).logits, model.bfloat16()(input_ids=IDS).logits)
