"""Policies: the tokenizer and model of a size, loading and saving, generation, log-probabilities.

A policy is a Hugging Face folder (config, safetensors, tokenizer). Sequences are padded on the left, so
that the last position of every row is its newest token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rlhf.contracts import DataError, written_beside

# rung -> (hidden size, layers, heads, MLP size); named by parameters at the built-in vocabulary
SIZES = {
    "0.1M": (64, 2, 4, 192),
    "0.3M": (96, 3, 4, 256),
    "1M": (160, 4, 5, 432),
    "3M": (256, 5, 8, 688),
}
PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
# A header such as "\nTITLE:", a word with its leading space, or one sign: joined again, they give the text.
_WORDS = r"\n?[A-Z;]{2,}:| ?r/\w+| ?[\w']+|\n| ?[^\s\w]|\s"


@dataclass
class Policy:
    """A causal language model and its tokenizer."""

    model: Any  # a PreTrainedModel; its generate() and heads are beyond what type checkers follow
    tokenizer: Any


def train_tokenizer(texts: Iterable[str], kind: str, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer: `word` (closed vocabulary of words with their space) or `bpe` (byte-level)."""
    special = [PAD, EOS, UNK]
    if kind == "word":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNK))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
        tokenizer.decoder = decoders.Fuse()
        trainer: Any = trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=special, show_progress=False
        )
    elif kind == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token=None))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        raise ValueError(f"unknown tokenizer kind {kind!r}; use 'word' or 'bpe'")
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def new_model(size: str, tokenizer: PreTrainedTokenizerFast, context: int) -> LlamaForCausalLM:
    """A Llama of a rung of the ladder with random weights.

    Raises:
        ValueError: no such size.
    """
    if size not in SIZES:
        raise ValueError(f"unknown model size {size!r}; sizes are {', '.join(SIZES)}")
    hidden, layers, heads, mlp = SIZES[size]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        # 1/sqrt(width): with the usual 0.02, attention this narrow takes thousands of steps to wake up.
        initializer_range=hidden**-0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def load_policy(path: Path | str) -> Policy:
    """Load a policy folder: safetensors only, no code from the folder.

    Raises:
        DataError: no such folder.
    """
    if not (Path(path) / "config.json").exists():
        raise DataError(f"{path}: no model here; run the stage that writes it (dvc repro)")
    model = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, dtype=torch.float32)
    return Policy(model.eval(), AutoTokenizer.from_pretrained(path, padding_side="left"))


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, path: Path | str) -> None:
    """Write model and tokenizer to a folder, beside then renamed."""
    with written_beside(path) as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)


def encode_prompts(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], longest: int
) -> list[list[int]]:
    """Token ids of prompts, cut on the left to `longest` tokens so that the answer cue at the end stays."""
    ids = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    return [row[-longest:] for row in ids]


def left_pad(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, both [rows, longest row], padded on the left."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[i, longest - len(row) :] = 1
    return ids, mask


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position ids [rows, tokens] that count from 0 at each row's first real token."""
    return (mask.cumsum(-1) - 1).clamp_min(0)


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    ids: torch.Tensor,
    mask: torch.Tensor,
    *,
    temperature: float,
    max_new_tokens: int,
) -> torch.Tensor:
    """Sample responses [rows, at most max_new_tokens]: pads follow a row's EOS. Temperature 0 is greedy."""
    chosen: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        chosen = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **chosen,
    )
    return out[:, ids.shape[1] :]


def generate(
    policy: Policy,
    prompts: list[str],
    *,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    batch_size: int = 256,
) -> list[str]:
    """Completions of prompts as text, EOS and what follows it removed.

    Deterministic for a seed, a batch size and a number of threads.
    """
    tokenizer = policy.tokenizer
    room = policy.model.config.max_position_embeddings - max_new_tokens
    if room < 1:
        raise DataError(
            f"the model's context is {room + max_new_tokens} tokens: no room for {max_new_tokens} new ones"
        )
    rows = encode_prompts(tokenizer, prompts, room)
    texts = [""] * len(prompts)
    # Rows of like length together: less padding. The order is a function of the prompts, so runs repeat.
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    torch.manual_seed(seed)
    policy.model.eval()
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ids, mask = left_pad([rows[i] for i in batch], tokenizer.pad_token_id)
        device = policy.model.device
        out = sample(
            policy.model,
            tokenizer,
            ids.to(device),
            mask.to(device),
            temperature=temperature,
            max_new_tokens=max_new_tokens,
        )
        for i, text in zip(batch, tokenizer.batch_decode(out, skip_special_tokens=True), strict=True):
            texts[i] = text
    return texts


def response_logprobs(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, length: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the last `length` tokens and the entropy there, both [rows, length].

    Logits are divided by the temperature first, as in sampling; only the response's are computed.
    """
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions(mask),
        use_cache=False,
        logits_to_keep=length + 1,
    )
    logits = out.logits[:, :-1].float() / temperature
    everything = logits.log_softmax(-1)
    chosen = everything.gather(-1, ids[:, -length:].unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        entropy = -(everything.exp() * everything).sum(-1)
    return chosen, entropy


@torch.no_grad()
def mean_kl(
    policy: Policy, reference: Policy, prompts: list[str], completions: list[str], *, temperature: float
) -> float:
    """KL(policy, reference) in nats a sequence, estimated on the policy's own samples (k1)."""
    tokenizer, total, batch_size = policy.tokenizer, 0.0, 128
    full = [p + c for p, c in zip(prompts, completions, strict=True)]
    for start in range(0, len(full), batch_size):
        batch = slice(start, start + batch_size)
        starts = [len(row) for row in tokenizer(prompts[batch], add_special_tokens=False)["input_ids"]]
        rows = [
            [*row, tokenizer.eos_token_id]
            for row in tokenizer(full[batch], add_special_tokens=False)["input_ids"]
        ]
        lengths = [len(row) - start for row, start in zip(rows, starts, strict=True)]
        rows = [row[-policy.model.config.max_position_embeddings :] for row in rows]
        longest = max(lengths)
        ids, mask = left_pad(rows, tokenizer.pad_token_id)
        real = torch.arange(longest) >= longest - torch.tensor(lengths).unsqueeze(1)
        ours, _ = response_logprobs(policy.model, ids, mask, longest, max(temperature, 1e-2))
        theirs, _ = response_logprobs(reference.model, ids, mask, longest, max(temperature, 1e-2))
        total += ((ours - theirs) * real).sum().item()
    return total / len(full)


def sequence_scores(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A one-label model's score at the last real token of each row, [rows]; padding may be on either side.

    `config.reward_shift` is taken off: the constant that makes references score 0 on average.
    """
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    hidden = _hidden(model, ids, mask)[torch.arange(len(ids), device=ids.device), last]
    return model.score(hidden).squeeze(-1).float() - getattr(model.config, "reward_shift", 0.0)


def token_values(model: Any, ids: torch.Tensor, mask: torch.Tensor, length: int) -> torch.Tensor:
    """A one-label model's values of the states before each of the last `length` tokens: [rows, length]."""
    hidden = _hidden(model, ids, mask)[:, -length - 1 : -1]
    return model.score(hidden).squeeze(-1).float() - getattr(model.config, "reward_shift", 0.0)


def _hidden(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    out = model.base_model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False)
    return out.last_hidden_state
