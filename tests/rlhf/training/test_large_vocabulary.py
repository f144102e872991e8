"""With a vocabulary of 150,000, no stage holds a tensor of tokens x vocabulary, nor anything near it."""

# pytest finds the fixture `base` by the name of an argument:
# ruff: noqa: F401, F811

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_base import DEMONSTRATIONS, base
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.compute import deterministic
from rlhf.models.adapters import add_adapters
from rlhf.models.logprobs import LOGITS, mean_kl
from rlhf.models.policy import Policy, load_policy
from rlhf.models.sampling import draw_tokens, generate
from rlhf.settings import Lora
from rlhf.training.sft import sft, validation_loss

VOCABULARY, WIDTH = 151_936, 8
ROWS = [row | {"prompt": row["prompt"].replace("TITLE:", "red " * 40)} for row in DEMONSTRATIONS[:16]]
LONGEST = 48  # tokens of each of them, because the context is this short


class Largest(TorchDispatchMode):
    """Remembers the most numbers of a tensor that an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.numbers = max(self.numbers, *sizes, 0)
        return out


@pytest.fixture
def policy(base: Path) -> Policy:
    """A narrow policy whose tokenizer knows few of the words that it has logits for."""
    deterministic(0, 1)
    small = load_policy(base)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LONGEST,
        eos_token_id=small.tokenizer.eos_token_id,
        pad_token_id=small.tokenizer.pad_token_id,
    )
    return Policy(LlamaForCausalLM(config).eval(), small.tokenizer)


def test_an_sft_step_holds_bounded_logits(policy: Policy, tmp_path: Path) -> None:
    policy.adapters = add_adapters(policy.model, Lora(rank=2))
    settings = {"epochs": 1.0, "batch_size": 16, "learning_rate": 1e-3, "save_every": 100}
    rows = [row | {"split": "train"} for row in ROWS]
    with Largest() as largest:
        sft(policy, rows, checkpoints=tmp_path, seed=0, **settings)
    assert VOCABULARY * WIDTH <= largest.numbers <= LOGITS


def test_what_measures_a_policy_holds_bounded_logits(policy: Policy) -> None:
    texts = [row["completion"] for row in ROWS]
    rows = [row | {"split": "validation"} for row in ROWS]
    with torch.no_grad(), Largest() as largest:
        assert validation_loss(policy, rows) is not None
        assert mean_kl(policy, policy, ROWS, texts, temperature=1.0) == 0
        generate(policy, ROWS, temperature=1.0, max_new_tokens=2, seed=0)
    assert VOCABULARY * WIDTH <= largest.numbers <= LOGITS


def test_many_rows_are_drawn_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 1000, generator=random)
    uniform = torch.rand(64, generator=random, dtype=torch.float64)
    whole = draw_tokens(logits, 0.7, uniform)
    monkeypatch.setattr("rlhf.models.sampling.LOGITS", 7 * 1000)
    with Largest() as largest:
        assert torch.equal(draw_tokens(logits, 0.7, uniform), whole)
    assert largest.numbers == 7 * 1000
