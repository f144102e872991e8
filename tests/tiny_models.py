"""Tiny models of real architectures with random weights, as a user's base model may be."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

_WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
_ATTENTION = {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8}
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_WINDOW = {"sliding_window": 6}
_ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"]}
MODELS: dict[str, dict[str, Any]] = {
    "llama": _ATTENTION,
    "qwen3": _ATTENTION,
    "gpt2": {},
    "gpt_neox": {"intermediate_size": 64, "max_position_embeddings": 64},
    "bloom": {"n_head": 4, "n_layer": 2},
    "mistral": _ATTENTION | _WINDOW,
    "phi3": _ATTENTION | _WINDOW,
    "gemma2": _ATTENTION | _WINDOW | _ALTERNATING,
    "gemma3_text": _ATTENTION | _WINDOW | _ALTERNATING,
    "qwen3_moe": _ATTENTION | _EXPERTS,
    "mixtral": _ATTENTION | _EXPERTS,
    "gpt_oss": _ATTENTION | _EXPERTS | _WINDOW | _ALTERNATING,
    "olmoe": _ATTENTION | _EXPERTS,
    "mamba": {"state_size": 8},
    "falcon_h1": _ATTENTION | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
}


def tiny_model(kind: str, tokenizer: Any, **more: Any) -> Any:
    """A causal language model of one of `MODELS` on a tokenizer's vocabulary."""
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(
        kind, **_WIDTH | MODELS[kind] | ids | {"vocab_size": len(tokenizer), "bos_token_id": None} | more
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    for p in model.parameters():  # some architectures initialise with a small spread or none
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.3)
    return model
