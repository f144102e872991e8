"""No tensor of tokens x vocabulary is ever whole: in sampling, scoring, optimisation and snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from tiny_ppo import PROMPTS, trainer_of, words_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlhf.models import logprobs
from rlhf.rl.snapshots import Snapshots
from rlhf.training.loop import train

VOCABULARY, WIDTH = 151_936, 8
EPISODES, RESPONSE = 8, 24  # as good as none ends early


class Largest(TorchDispatchMode):
    """The most elements that a tensor had while this was on, and the operation that made it."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.operation = 0, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.numel() > self.elements:
                self.elements, self.operation = tensor.numel(), str(func)
        return result


def model(kind: Any, seed: int, **more: Any) -> Any:
    torch.manual_seed(seed)
    return kind(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
            **more,
        )
    )


@pytest.mark.parametrize("lora", [False, True])
def test_the_vocabulary_is_never_whole(lora: bool, tmp_path: Path) -> None:
    tokenizer = words_tokenizer()
    value = model(LlamaForSequenceClassification, 1, num_labels=1)
    more = {
        "policy": model(LlamaForCausalLM, 0),
        "value": None if lora else value,
        "peft_config": LoraConfig(r=2, target_modules="all-linear") if lora else None,
        "ptx_texts": [" ".join(["red"] * 24)],
    }
    trainer = trainer_of(
        tokenizer,
        tmp_path / "run",
        reward=lambda prompts, texts: [1.0] * len(texts),
        more=more,
        num_updates=1,
        num_mini_batches=1,
        num_ppo_epochs=1,
        batch_size=EPISODES,
        response_length=RESPONSE,
        micro_batch_tokens=10_000,
        ptx_coef=1.0,
        ptx_batch_size=EPISODES,
    )
    rows = [{"prompt": prompt, "completion": " red", "source": "test"} for prompt in PROMPTS[:EPISODES]]
    trainer.scorer = lambda reward: lambda rows, texts: [0.0] * len(texts)
    trainer.add_callback(Snapshots(trainer, value, rows, tmp_path / "snapshots", 1))  # type: ignore[arg-type]
    with Largest() as largest:
        train(trainer)
    rollout = trainer.rollout
    assert rollout is not None
    tokens = int(rollout.mask.sum())
    assert tokens * VOCABULARY > 1.5 * logprobs.LOGITS  # whole, it would show
    allowed = max(logprobs.LOGITS, EPISODES * VOCABULARY, WIDTH * VOCABULARY)
    assert VOCABULARY * EPISODES <= largest.elements <= allowed, largest.operation
