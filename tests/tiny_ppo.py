"""A PPO run that takes a second, with models of a few thousand weights and a vocabulary of words."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, TrainerCallback

from rlhf.compute import deterministic
from rlhf.models.adapters import Adapters, adapters_of, add_adapters
from rlhf.models.scratch import train_tokenizer
from rlhf.rl.trainer import PPOConfig, PPOTrainer, RewardAdapter
from rlhf.settings import Lora

SHIFT = 0.25  # of a reward adapter
WORDS = "red green blue one two three yes no"
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
PROMPTS = [f"{a} {b}:" for a in WORDS.split() for b in WORDS.split()]


def words_tokenizer():
    return train_tokenizer([f"{p} {w}" for p in PROMPTS for w in WORDS.split()], "word", 300)


def tiny(tokenizer, kind=LlamaForCausalLM, seed=0, **more):
    torch.manual_seed(seed)
    more = {"max_position_embeddings": 32} | more
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )
    return kind(config)


def trainer_of(tokenizer, folder: Path, reward=None, callbacks=None, more=None, **settings) -> PPOTrainer:
    deterministic(0, 1)
    policy = tiny(tokenizer)
    scorer = tiny(tokenizer, LlamaForSequenceClassification, seed=1, num_labels=1)
    settings = {
        "num_updates": 2,
        "batch_size": 16,
        "micro_batch_tokens": 100,
        "num_mini_batches": 2,
        "num_ppo_epochs": 2,
        "response_length": 8,
        "learning_rate": 1e-3,
        "temperature": 1.0,
        "report_to": "none",
        "save_updates": 1,
        "disable_tqdm": True,
        "use_cpu": True,
    } | settings
    more = {"value": copy.deepcopy(scorer), "prompts": PROMPTS, "policy": policy} | (more or {})
    return PPOTrainer(
        more.pop("policy"),
        reward or scorer,
        PPOConfig(output_dir=str(folder), **settings),
        more.pop("prompts"),
        tokenizer,
        callbacks=callbacks,
        **more,
    )


def adapters(tokenizer, seed: int) -> Adapters:
    """Adapters that change what the base computes."""
    adapted = add_adapters(tiny(tokenizer), Lora(rank=4))
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=random) * 0.2)
    return adapters_of(adapted)


def reward_adapter(tokenizer, seed: int = 2) -> RewardAdapter:
    head = torch.randn(1, 16, generator=torch.Generator().manual_seed(seed))
    return RewardAdapter(adapters(tokenizer, seed), head, SHIFT)


def updates(rows):
    return [row for row in rows if "update" in row]


def gradient_of(trainer: PPOTrainer) -> torch.Tensor:
    """The gradient of the first step, flat."""
    trainer.model.zero_grad()
    trainer.training_step(trainer.model, {"step": 0})
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


class Stop(TrainerCallback):
    """Ends a training after a step, as a kill would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def tokenizer():
    return words_tokenizer()


def ones(prompts, completions):
    return [1.0] * len(completions)


def state(trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
