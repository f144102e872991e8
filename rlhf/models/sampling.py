"""Sampling from a policy: responses to prompts that stand side by side, each with its own noise.

Prompts are padded on the left, so that all responses begin at the same position. A prompt that several
responses are sampled to is read once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from rlhf.data.errors import DataError
from rlhf.models.batches import left_pad, positions
from rlhf.models.logprobs import LOGITS
from rlhf.models.policy import Policy
from rlhf.models.template import Row, prompts_within

# logits [rows, vocabulary], which prompts the rows are, number of the step -> a token for each row
Draw = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


@torch.no_grad()
def sampled_tokens(
    model: Any, prompts: Sequence[Sequence[int]], *, stop: Sequence[int], pad: int, longest: int, draw: Draw
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Sample a response to each prompt, a token a step: yields the rows that still answer, and their tokens.

    A row's last token is a stop token, or its token number `longest`. Closing the iterator ends the sampling.

    Args:
        stop: ids that end a response.
        draw: chooses tokens from the logits of the rows in the batch, which the second argument names. A row
            that has ended may still be in the batch.
    """
    model.eval()
    device = model.device
    number: dict[tuple[int, ...], int] = {}  # of each different prompt
    which = torch.tensor([number.setdefault(tuple(row), len(number)) for row in prompts], device=device)
    ids, mask = (x.to(device) for x in left_pad(list(number), pad))  # [different prompts, longest]
    stops = torch.tensor(list(stop), device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    rows = torch.arange(len(prompts), device=device)  # the rows still in the batch
    cache, position = DynamicCache(config=model.config), positions(mask)
    for t in range(longest):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if t == 0 and len(number) < len(prompts):  # each response goes on from its prompt by itself
            cache.batch_select_indices(which)
            logits, mask, position = logits[which], mask[which], position[which]
        token = draw(logits.float(), rows, t)
        going = ~ended[rows]
        yield rows[going], token[going]
        ended[rows] |= torch.isin(token, stops)
        left = ~ended[rows]
        alive = int(left.sum())
        if not alive:
            break
        if alive <= 0.75 * len(rows):  # keeping a few finished rows costs less than copying the cache
            cache.batch_select_indices(left.nonzero().squeeze(-1))
            rows, token, mask, position = rows[left], token[left], mask[left], position[left]
        ids, position = token.unsqueeze(-1), position[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop: Sequence[int],
    pad: int,
    temperature: float,
    uniforms: torch.Tensor,
    keep: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> list[list[int]]:
    """Sample a response to each prompt: token ids up to and including a stop token.

    Args:
        stop: ids that end a response.
        temperature: 0 is greedy.
        uniforms: the noise of every draw, numbers in [0, 1), [prompts, longest response]; so a row's draws do
            not depend on its neighbours.
        keep: a list that takes the rows still in the batch at each step and their logits, [rows, vocabulary].
    """
    longest, uniforms = uniforms.shape[1], uniforms.to(model.device)

    def draw(logits: torch.Tensor, rows: torch.Tensor, t: int) -> torch.Tensor:
        if keep is not None:
            keep.append((rows, logits))
        return draw_tokens(logits, temperature, uniforms[rows, t])

    responses = torch.full((len(prompts), longest), pad, dtype=torch.long, device=model.device)
    steps = sampled_tokens(model, prompts, stop=stop, pad=pad, longest=longest, draw=draw)
    for t, (rows, token) in enumerate(steps):
        responses[rows, t] = token
    out = responses.tolist()
    last = torch.isin(responses, torch.tensor(list(stop), device=model.device))
    ends = torch.where(last.any(1), last.int().argmax(1) + 1, longest).tolist()
    return [row[:end] for row, end in zip(out, ends, strict=True)]


def draw_tokens(logits: torch.Tensor, temperature: float, uniform: torch.Tensor) -> torch.Tensor:
    """One token a row by inverting the distribution function, which is in double precision, for few rows at
    a time where the vocabulary is large."""
    if temperature == 0:
        return logits.argmax(-1)
    vocabulary = logits.shape[-1]

    def draw(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        summed = (logits / temperature).softmax(-1).double().cumsum(-1)
        wanted = (uniform * summed[:, -1]).unsqueeze(-1)
        return torch.searchsorted(summed, wanted, right=True).squeeze(-1).clamp_max(vocabulary - 1)

    rows = max(1, LOGITS // vocabulary)
    parts = zip(logits.split(rows), uniform.split(rows), strict=True)
    return torch.cat([draw(*part) for part in parts])


def check_sampling(model: Any) -> None:
    """Check that sampling draws from the same logits as a plain forward pass over the same ids computes.

    Prompts of unlike lengths stand side by side and one of them ends early, as in `sample`. A model that
    passed is not checked again.

    Raises:
        DataError: they differ, because the model does not cache what it read in the way `sample` expects.
    """
    if model in _SAMPLES_RIGHT:
        return
    name = type(model).__name__
    vocabulary = model.get_input_embeddings().weight.shape[0]
    random = torch.Generator().manual_seed(0)
    prompts = [torch.randint(vocabulary, (n,), generator=random).tolist() for n in (3, 9, 6)]
    uniforms = torch.rand(len(prompts), 6, generator=random, dtype=torch.float64)

    def plain(ids: list[int]) -> torch.Tensor:
        return model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0].float()

    with torch.no_grad():
        model.eval()
        first = draw_tokens(plain(prompts[0])[-1:], 1.0, uniforms[:1, 0].to(model.device))
        steps: list[tuple[torch.Tensor, torch.Tensor]] = []
        try:
            responses = sample(
                model, prompts, stop=first.tolist(), pad=0, temperature=1.0, uniforms=uniforms, keep=steps
            )
        except (
            AttributeError,
            IndexError,
            NotImplementedError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise DataError(f"{name} cannot be sampled with a cache ({str(error)[:100]})") from None
        rows = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        logits = [plain(row) for row in rows]
    if not all(torch.isfinite(row).all() for row in logits):
        raise DataError(f"{name}: its logits are not finite, so its weights are broken")
    worst = max(
        ((ours - logits[i][len(prompts[i]) + t - 1]).square().mean().sqrt() / logits[i].std()).item()
        for t, (left, batch) in enumerate(steps)
        for i, ours in zip(left.tolist(), batch, strict=True)
        if t < len(responses[i])  # a row that has ended may still be in the batch
    )
    if not worst < (1e-2 if model.dtype == torch.float32 else 0.3):
        raise DataError(
            f"{name}: sampling with a cache gives other logits than a plain forward, by {worst:.2g} of their "
            "standard deviation; this kind of model cannot be sampled here"
        )
    _SAMPLES_RIGHT.add(model)


_SAMPLES_RIGHT: weakref.WeakSet[Any] = weakref.WeakSet()


def generate(
    policy: Policy,
    rows: Sequence[Row],
    *,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    batch_size: int = 256,
) -> list[str]:
    """Completions of rows with `prompt` and `messages` as text, without the token that ended them.

    Deterministic for a seed, a batch size and a number of threads.
    """
    check_sampling(policy.model)
    room = policy.context - max_new_tokens
    if room < 1:
        raise DataError(
            f"the model's context is {policy.context} tokens: no room for {max_new_tokens} new ones"
        )
    prompts = prompts_within(policy.template, rows, room)
    texts = [""] * len(prompts)
    # Rows of like length go together, for less padding. The order follows from the prompts alone.
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    noise = torch.rand(
        len(prompts), max_new_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        out = sample(
            policy.model,
            [prompts[i] for i in batch],
            stop=policy.stops,
            pad=policy.pad,
            temperature=temperature,
            uniforms=noise[batch],
        )
        for i, ids in zip(batch, out, strict=True):
            texts[i] = policy.template.text(ids, rows[i])
    return texts
