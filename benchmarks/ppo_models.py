"""The models and prompts of the PPO benchmark: random weights by seed, responses that end at varied places.

Random weights hardly ever say EOS. So that both trainers meet responses of varied length, the policy gets a
constant channel: coordinate 0 of every embedding is the same, and no layer writes to it. The tied head turns
it into the same shift of all logits, which changes no probability; EOS alone has a larger entry there, found
by bisection so that each token is EOS with a probability of about `EOS_HAZARD`. It is ordinary weights: the
trainers load the same folder and know nothing of it.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

# name -> hidden size, layers, heads, key-value heads, MLP size, vocabulary
SIZES = {
    "tiny": (32, 2, 2, 2, 64, 64),
    "1.3m": (128, 4, 4, 4, 512, 2048),
    "4.2m": (256, 4, 4, 4, 1024, 4096),
    "14m": (384, 6, 6, 6, 1536, 8192),
    "37.8m": (512, 8, 8, 8, 2048, 8192),
    "150m": (1024, 10, 16, 16, 2816, 16384),
    "1b": (2048, 16, 32, 8, 8192, 128256),  # the shape of Llama 3.2 1B
}
CONTEXT = 512
TEMPERATURE = 0.7
EOS_HAZARD = 1 / 24
_CHANNEL = 0.1  # five times the spread of the other coordinates: nearly constant after the norm
PAD, EOS = "<pad>", "<eos>"


def shape_of(size: str) -> tuple[int, int, int, int, int, int]:
    """The entry of `SIZES`; a name such as 4.2m@1024 has another vocabulary."""
    name, _, vocabulary = size.partition("@")
    return (*SIZES[name][:-1], int(vocabulary)) if vocabulary else SIZES[name]


@dataclass(frozen=True)
class Arithmetic:
    """Floating-point operations that one PPO episode needs, whoever does them.

    Counts the matrix products of real tokens only: sampling with a cache, one forward each of reference,
    value and reward model, and forward and backward (three forwards) of policy and value in each epoch; the
    head on response tokens alone. A product of [a, b] and [b, c] counts 2abc.
    """

    body: int
    head: int
    layers: int
    width: int

    def of_episode(self, prompt: int, response: float, epochs: int) -> float:
        """Operations of an episode of `prompt` + `response` tokens."""
        tokens = prompt + response
        body = 2 * self.body * tokens + 2 * self.layers * self.width * tokens**2  # causal: half the square
        head = 2 * self.head * response
        return (body + head) + (3 * body + head) + epochs * 3 * (2 * body + head)


def arithmetic(size: str) -> Arithmetic:
    """The operation counts of a size."""
    hidden, layers, heads, kv_heads, mlp, vocabulary = shape_of(size)
    attention = 2 * hidden**2 + 2 * hidden * (hidden // heads) * kv_heads
    return Arithmetic(layers * (attention + 3 * hidden * mlp), hidden * vocabulary, layers, hidden)


def tokenizer_of(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of `vocabulary` words `w2`, `w3`, ...; a word's number is its id, 0 is pad and 1 is EOS."""
    vocabulary_ids = {PAD: 0, EOS: 1} | {f"w{i}": i for i in range(2, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary_ids, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, padding_side="left"
    )


def config_of(size: str, **more: Any) -> LlamaConfig:
    """The configuration of a size, embeddings tied."""
    hidden, layers, heads, kv_heads, mlp, vocabulary = shape_of(size)
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=0,
        eos_token_id=1,
        **more,
    )


@torch.no_grad()
def policy_of(size: str, seed: int) -> Any:
    """A policy with random weights that ends each response after about 1 / `EOS_HAZARD` tokens."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config_of(size)).eval()
    embeddings = model.get_input_embeddings().weight
    embeddings[:, 0] = _CHANNEL
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = 0
        layer.mlp.down_proj.weight[0] = 0
    ids = torch.randint(2, len(embeddings), (8, 144), generator=torch.Generator().manual_seed(seed))
    hidden = model.model(ids).last_hidden_state[:, 96:].flatten(0, 1)
    logits = hidden @ embeddings.T / TEMPERATURE
    others = logits[:, 2:].logsumexp(-1)
    low, high = 0.0, 100.0
    for _ in range(40):
        extra = (low + high) / 2
        eos = logits[:, 1] + extra * hidden[:, 0] / TEMPERATURE
        low, high = (extra, high) if (eos - others).sigmoid().mean() < EOS_HAZARD else (low, extra)
    embeddings[1, 0] += low
    embeddings[0, 0] = -10  # never sample pad: to one trainer it would be padding, to the other a word
    return model


def reward_of(size: str, seed: int) -> Any:
    """A reward model with random weights; the value model starts as its copy."""
    torch.manual_seed(seed + 1)
    return LlamaForSequenceClassification(config_of(size, num_labels=1)).eval()


def draw_prompts(size: str, number: int, shortest: int, longest: int, seed: int) -> list[str]:
    """Prompts of random words, lengths uniform from `shortest` to `longest` tokens."""
    rng, vocabulary = random.Random(seed), shape_of(size)[-1]
    lengths = [rng.randint(shortest, longest) for _ in range(number)]
    return [" ".join(f"w{i}" for i in rng.choices(range(2, vocabulary), k=n)) for n in lengths]


def write_models(folder: Path, size: str, seed: int, dtype: torch.dtype) -> int:
    """Write `policy/` and `reward/` with the tokenizer; returns the parameters of the policy."""
    policy = policy_of(size, seed).to(dtype)
    policy.save_pretrained(folder / "policy")
    reward_of(size, seed).to(dtype).save_pretrained(folder / "reward")
    tokenizer_of(shape_of(size)[-1]).save_pretrained(folder / "policy")
    return policy.num_parameters()


def write_prompts(path: Path, prompts: list[str]) -> None:
    """Write prompts as a JSON list."""
    path.write_text(json.dumps(prompts))
