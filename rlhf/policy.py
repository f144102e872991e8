"""Policies: the tokenizer and model of a size, loading and saving, generation, log-probabilities.

A policy is a Hugging Face folder (config, safetensors, tokenizer). Prompts are padded on the left to sample,
whole sequences on the right to be scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rlhf.contracts import DataError, written_beside

# rung -> (hidden size, layers, heads, MLP size); named by parameters at the built-in vocabulary
SIZES = {
    "0.1M": (64, 2, 4, 192),
    "0.15M": (72, 2, 4, 224),
    "0.2M": (80, 2, 4, 256),
    "0.3M": (96, 3, 4, 256),
    "0.5M": (112, 3, 4, 304),
    "1M": (144, 4, 4, 384),
    "2M": (192, 5, 6, 512),
    "3M": (224, 5, 7, 592),
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


def tokenizer_texts(corpus: list[dict[str, Any]], demonstrations: list[dict[str, Any]]) -> list[str]:
    """What a tokenizer learns from: the corpus, and training prompts, so that their answer cue is a token."""
    cues = [row["prompt"] + row["completion"] for row in demonstrations if row["split"] == "train"]
    return [row["text"] for row in corpus] + cues


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
    """Write model and tokenizer to a folder, beside then renamed.

    Of several processes the first one writes; of a model that they share (FSDP) all have to call this.
    """
    weights = None
    if torch.distributed.is_initialized():
        if hasattr(model, "unshard"):
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

            whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
            weights = get_model_state_dict(model, options=whole)
        if torch.distributed.get_rank():
            return
    with written_beside(path) as beside:
        model.save_pretrained(beside, state_dict=weights)
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


def right_pad(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [rows, longest row], padded behind the rows, and the rows' lengths."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), pad, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return ids, lengths


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position ids [rows, tokens] that count from 0 at each row's first real token."""
    return (mask.cumsum(-1) - 1).clamp_min(0)


@dataclass
class Batch:
    """Sequences side by side, padded behind their ends: causal attention then needs no mask, and what a row
    gives does not depend on its neighbours.

    Attributes:
        ids: [rows, longest].
        lengths: real tokens of each row, [rows].
        before: flat positions in [rows * longest] of the states that predict the response tokens, row by row.
        targets: the response tokens, [tokens].
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    before: torch.Tensor
    targets: torch.Tensor


def batch_of(
    rows: Sequence[Sequence[int]], starts: Sequence[int], pad: int, device: torch.device | str = "cpu"
) -> Batch:
    """A batch of sequences whose responses begin at `starts` (at least 1) and last to their ends."""
    ids, lengths = right_pad(rows, pad)
    longest = ids.shape[1]
    before = torch.cat(
        [
            torch.arange(i * longest + start - 1, i * longest + len(row) - 1)
            for i, (row, start) in enumerate(zip(rows, starts, strict=True))
        ]
    )
    targets = ids.flatten()[before + 1]
    return Batch(ids.to(device), lengths.to(device), before.to(device), targets.to(device))


def token_batches(lengths: Sequence[int], budget: int, overhead: int | None = None) -> list[list[int]]:
    """Indices in groups of like length, each of at most `budget` tokens with padding, or of one row.

    Args:
        overhead: what one more group costs, in tokens; the groups are those of least tokens and overhead in
            all. None: each takes in all that it may.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    if overhead is None:
        groups: list[list[int]] = []
        longest = 0
        for i in order:
            if groups and longest * (len(groups[-1]) + 1) <= budget:
                groups[-1].append(i)
            else:
                groups.append([i])
                longest = lengths[i]
        return groups
    # least[end]: the cost of the first `end` rows; start[end]: where the last of their groups begins
    least, start = [0.0] + [math.inf] * len(order), [0] * (len(order) + 1)
    for begin, i in enumerate(order):
        for end in range(begin + 1, max(begin + 1, begin + budget // max(1, lengths[i])) + 1):
            if end > len(order):
                break
            cost = least[begin] + lengths[i] * (end - begin) + overhead
            if cost < least[end]:
                least[end], start[end] = cost, begin
    groups, end = [], len(order)
    while end:
        groups.append(order[start[end] : end])
        end = start[end]
    return groups[::-1]


def hidden_states(model: Any, ids: torch.Tensor, at: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """The body's last hidden states at flat positions of right-padded ids: [len(at), width].

    `inputs` go to the body as they are: an attention mask, position ids.
    """
    with _last_layer_only(model.base_model, at):
        out = model.base_model(input_ids=ids, use_cache=False, **inputs).last_hidden_state
    return out.flatten(0, 1)[at]


@contextmanager
def _last_layer_only(body: Any, at: torch.Tensor) -> Iterator[None]:
    """Have the last layer's MLP and output projection work on the positions `at` only.

    Nothing reads their results elsewhere: of a prompt's tokens the last layer owes only keys and values.
    Bodies without `layers[-1].mlp` and `.self_attn.o_proj` (Llama's kin have them) are left as they are, and
    so are those that compute their layers a second time for the gradient.
    """
    layer = getattr(body, "layers", [None])[-1]
    parts: list[Any] = [
        getattr(layer, "mlp", None),
        getattr(getattr(layer, "self_attn", None), "o_proj", None),
    ]
    if any(part is None for part in parts) or getattr(layer, "gradient_checkpointing", False):
        yield
        return

    def only(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def partial(x: torch.Tensor) -> torch.Tensor:
            some = forward(x.flatten(0, 1)[at])
            everywhere = some.new_zeros(x.shape[0] * x.shape[1], some.shape[-1])
            return everywhere.index_copy(0, at, some).view(*x.shape[:2], -1)

        return partial

    before = [part.__dict__.get("forward") for part in parts]
    for part in parts:
        part.forward = only(part.forward)
    try:
        yield
    finally:
        for part, forward in zip(parts, before, strict=True):
            if forward is None:
                del part.forward  # the class's own again
            else:
                part.forward = forward


def chosen_logprobs(
    model: Any, states: torch.Tensor, targets: torch.Tensor, temperature: float, *, with_entropy: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of `targets` after hidden states, and entropies (zeros unless asked for), [tokens].

    Logits are divided by the temperature first, as in sampling. They exist for `_LOGITS` elements at a time
    and are computed again for the gradient.
    """

    def part(states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = _logits(model, states, temperature)
        chosen = -cross_entropy(logits, targets, reduction="none")
        if not with_entropy:
            return chosen, torch.zeros_like(chosen)
        everything = logits.log_softmax(-1)
        return chosen, -(everything.exp() * everything).sum(-1)

    rows = _rows_at_once(model)
    if len(states) <= rows:
        return part(states, targets)
    found = [
        checkpoint(part, s, t, use_reentrant=False)
        for s, t in zip(states.split(rows), targets.split(rows), strict=True)
    ]
    return torch.cat([chosen for chosen, _ in found]), torch.cat([entropy for _, entropy in found])


_LOGITS = 1 << 24


def _logits(model: Any, states: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logits after hidden states, divided by the temperature, [states, vocabulary]."""
    logits = model.get_output_embeddings()(states).float()
    if cap := getattr(model.config, "final_logit_softcapping", None):
        logits = torch.tanh(logits / cap) * cap
    return logits / temperature


def _rows_at_once(model: Any) -> int:
    """For how many hidden states the logits may exist at a time."""
    return max(1, _LOGITS // model.get_output_embeddings().weight.shape[0])


def response_logprobs(
    model: Any, batch: Batch, temperature: float, *, with_entropy: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of a batch's response tokens and the entropy there, both [tokens]."""
    states = hidden_states(model, batch.ids, batch.before)
    return chosen_logprobs(model, states, batch.targets, temperature, with_entropy=with_entropy)


def check_head(model: Any) -> None:
    """Check that logits are the output embeddings applied to the last hidden state.

    Raises:
        DataError: the model scales or changes them in a way that `chosen_logprobs` does not know.
    """
    ids = torch.arange(4, device=model.device).remainder(model.config.vocab_size).unsqueeze(0)
    with torch.no_grad():
        lengths, before = torch.tensor([4]), torch.arange(3, device=ids.device)
        ours, _ = response_logprobs(model, Batch(ids, lengths, before, ids[0, 1:]), 1.0)
        logits = model(input_ids=ids, use_cache=False).logits[0, :3].float()
        theirs = logits.log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1)
    if not torch.allclose(ours, theirs, atol=1e-2):
        raise DataError(f"{type(model).__name__}: its logits are not its head on its last hidden state")


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop: Sequence[int],
    pad: int,
    temperature: float,
    uniforms: torch.Tensor,
) -> list[list[int]]:
    """Sample a response to each prompt: token ids up to and including a stop token.

    Args:
        stop: ids that end a response.
        temperature: 0 is greedy.
        uniforms: numbers in [0, 1), [prompts, longest response]: the noise of every draw, so that what a row
            draws does not depend on its neighbours.
    """
    model.eval()
    device = model.device
    ids, mask = (x.to(device) for x in left_pad(prompts, pad))
    stops = torch.tensor(list(stop), device=device)
    longest = uniforms.shape[1]
    responses = torch.full((len(prompts), longest), pad, dtype=torch.long, device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    rows = torch.arange(len(prompts), device=device)  # those still in the batch
    uniforms, cache, position = uniforms.to(device), DynamicCache(config=model.config), positions(mask)
    for t in range(longest):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        token = _draw(logits.float(), temperature, uniforms[rows, t])
        going = ~ended[rows]
        responses[rows[going], t] = token[going]
        ended[rows] |= torch.isin(token, stops)
        left = ~ended[rows]
        alive = int(left.sum())
        if not alive:
            break
        if alive <= 0.75 * len(rows):  # leaving a few finished rows in costs less than copying the cache
            cache.batch_select_indices(left.nonzero().squeeze(-1))
            rows, token, mask, position = rows[left], token[left], mask[left], position[left]
        ids, position = token.unsqueeze(-1), position[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
    out = responses.tolist()
    last = torch.isin(responses, stops)
    ends = torch.where(last.any(1), last.int().argmax(1) + 1, longest).tolist()
    return [row[:end] for row, end in zip(out, ends, strict=True)]


def _draw(logits: torch.Tensor, temperature: float, uniform: torch.Tensor) -> torch.Tensor:
    """One token a row by inverting the distribution function."""
    if temperature == 0:
        return logits.argmax(-1)
    summed = (logits / temperature).softmax(-1).double().cumsum(-1)
    return (
        torch.searchsorted(summed, (uniform * summed[:, -1]).unsqueeze(-1), right=True)
        .squeeze(-1)
        .clamp_max(logits.shape[-1] - 1)
    )


def stop_ids(policy: Policy) -> list[int]:
    """The ids that end a response: EOS, and what the model's generation config adds to it."""
    ids = policy.model.generation_config.eos_token_id
    return sorted(
        {policy.tokenizer.eos_token_id, *(ids if isinstance(ids, list) else [ids] if ids is not None else [])}
    )


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
    noise = torch.rand(
        len(rows), max_new_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        out = sample(
            policy.model,
            [rows[i] for i in batch],
            stop=stop_ids(policy),
            pad=tokenizer.pad_token_id,
            temperature=temperature,
            uniforms=noise[batch],
        )
        for i, text in zip(batch, tokenizer.batch_decode(out, skip_special_tokens=True), strict=True):
            texts[i] = text
    return texts


@torch.no_grad()
def mean_kl(
    policy: Policy, reference: Policy, prompts: list[str], completions: list[str], *, temperature: float
) -> float:
    """KL(policy, reference) in nats a sequence, on samples of the policy; never negative.

    At each token the divergence of the two next-token distributions is taken whole, and only the tokens
    before it are a sample (the Rao-Blackwellised estimator of Amini et al. 2025, arXiv:2504.10637). It has
    the expectation of the mean log-ratio of the sampled tokens, which varies more and falls below 0 by chance
    where the policies are near each other.
    """
    tokenizer, longest = policy.tokenizer, policy.model.config.max_position_embeddings
    temperature = max(temperature, 1e-2)
    starts = [len(row) for row in tokenizer(prompts, add_special_tokens=False)["input_ids"]]
    full = tokenizer([p + c for p, c in zip(prompts, completions, strict=True)], add_special_tokens=False)[
        "input_ids"
    ]
    rows = [[*row, tokenizer.eos_token_id] for row in full]
    starts = [max(1, start - max(0, len(row) - longest)) for start, row in zip(starts, rows, strict=True)]
    rows = [row[-longest:] for row in rows]
    total = 0.0
    for group in token_batches([len(row) for row in rows], 16384):
        batch = batch_of([rows[i] for i in group], [starts[i] for i in group], tokenizer.pad_token_id)
        models = (policy.model, reference.model)
        states = [hidden_states(model, batch.ids, batch.before) for model in models]
        for parts in zip(*(part.split(_rows_at_once(policy.model)) for part in states), strict=True):
            ours, theirs = (
                _logits(model, part, temperature).log_softmax(-1)
                for model, part in zip(models, parts, strict=True)
            )
            total += (ours.exp() * (ours - theirs)).sum().item()
    return max(0.0, total / len(full))  # rounding alone may bring equal policies below 0


def last_positions(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The flat position of the last real token of each right-padded row, [rows]."""
    return torch.arange(len(ids), device=ids.device) * ids.shape[1] + lengths - 1


def sequence_scores(model: Any, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """A one-label model's score at the last real token of each right-padded row, [rows]."""
    return head_scores(model, hidden_states(model, ids, last_positions(ids, lengths)))


def head_scores(model: Any, states: torch.Tensor) -> torch.Tensor:
    """A one-label model's scores of hidden states, [states].

    `config.reward_shift` is taken off: the constant that makes references score 0 on average.
    """
    return model.score(states).squeeze(-1).float() - getattr(model.config, "reward_shift", 0.0)
