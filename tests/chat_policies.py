"""Small policies that are served and exported: one that chats and one that continues text, random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.models.policy import Policy, load_policy, save_model
from rlhf.models.scratch import train_tokenizer

CHATML = (
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
TEXTS = ["How are you today? Very well, thank you.", "Where is the café? It is in 東京 🦩."] * 4


def small_policy(chat: bool = True, template: str = CHATML, **settled: Any) -> Policy:
    """A byte-level policy; with `chat` its tokenizer has a template, by default ChatML."""
    from rlhf.models.settled import Settled

    tokenizer = train_tokenizer(TEXTS, "bpe", 320)
    if chat:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = template
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 3,  # as real models have it: more rows than tokens
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Policy(LlamaForCausalLM(config).eval(), tokenizer, settled=Settled(**settled))


def adapted_policy(folder: Path, dtype: str = "float32") -> Path:
    """A policy that learnt by LoRA, as a model folder beside that of its base."""
    from rlhf.models.adapters import add_adapters
    from rlhf.settings import Lora

    made = small_policy(dtype=dtype)
    made.model.to(getattr(torch, dtype))
    policy = load_policy(saved(made, folder / "pretrained"))
    policy.adapters = add_adapters(policy.model, Lora(rank=4))
    torch.manual_seed(6)
    with torch.no_grad():
        for name, p in policy.adapters.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.2)
    return saved(policy, folder / "ppo")


def saved(policy: Policy, folder: Path) -> Path:
    """The policy as a model folder."""
    save_model(policy, folder)
    return folder
