"""Sampling from a policy: responses to prompts, each with its own noise.

Rows are sampled side by side; when some have ended, waiting prompts take their places (`rlhf.models.slots`).
A prompt that several responses are sampled to is read once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from rlhf.data.errors import DataError
from rlhf.models.logprobs import LOGITS
from rlhf.models.policy import Policy
from rlhf.models.slots import rows_for, takes_slots
from rlhf.models.template import Row, prompts_within

# logits [rows, vocabulary], which prompts the rows are, the number of each one's token -> a token for each
Draw = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
# what a draw was from: which prompt, the number of its token, the logits [vocabulary]
Kept = tuple[int, int, torch.Tensor]


@torch.no_grad()
def sampled_tokens(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop: Sequence[int],
    pad: int,
    longest: int,
    draw: Draw,
    at_once: int | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Sample a response to each prompt: yields some of the rows that still answer, and a token of each.

    A row's last token is a stop token, or its token number `longest`. Closing the iterator ends the sampling.

    Args:
        stop: ids that end a response.
        draw: chooses tokens from the logits of some rows, which the second argument names.
        at_once: the most rows side by side; None for all. Memory may allow fewer.

    Raises:
        DataError: this kind of model cannot be sampled; see `check_sampling`.
    """
    check_sampling(model)
    if not prompts:
        return
    model.eval()
    device = model.device
    stops = torch.tensor(list(stop), device=device)
    first: dict[tuple[int, ...], int] = {}  # the first row of each different prompt
    # Rows of like length go together, for less padding, and those of one prompt, so that it is read once.
    waiting = sorted(
        range(len(prompts)), key=lambda i: (-len(prompts[i]), first.setdefault(tuple(prompts[i]), i))
    )
    most = min(at_once or len(prompts), len(prompts))
    batch = rows_for(model, prompts, pad=pad, longest=longest, most=most, in_place=_IN_PLACE[model])
    rows = tokens = steps = torch.empty(0, dtype=torch.long, device=device)
    while waiting or len(rows):
        if waiting and (room := batch.room(len(rows))):
            new, waiting = waiting[:room], waiting[room:]
            for which, logits in batch.join([prompts[i] for i in new]):
                joined = torch.tensor([new[i] for i in which], device=device)
                drawn = draw(logits.float(), joined, torch.zeros_like(joined))
                yield joined, drawn
                rows, tokens = torch.cat([rows, joined]), torch.cat([tokens, drawn])
                steps = torch.cat([steps, torch.zeros_like(joined)])
        else:
            logits, steps = batch.step(tokens), steps + 1
            tokens = draw(logits.float(), rows, steps)
            yield rows, tokens
        left = ~torch.isin(tokens, stops) & (steps < longest - 1)
        if not left.all():
            order = batch.keep(left)
            rows, tokens, steps = rows[order], tokens[order], steps[order]


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop: Sequence[int],
    pad: int,
    temperature: float,
    uniforms: torch.Tensor,
    at_once: int | None = None,
    keep: list[Kept] | None = None,
) -> list[list[int]]:
    """Sample a response to each prompt: token ids up to and including a stop token.

    Args:
        stop: ids that end a response.
        temperature: 0 is greedy.
        uniforms: the noise of every draw, numbers in [0, 1), [prompts, longest response]; so a row's draws do
            not depend on its neighbours.
        at_once: the most rows side by side; None for all. Memory may allow fewer.
        keep: a list that takes what each draw was from.

    Raises:
        DataError: this kind of model cannot be sampled; see `check_sampling`.
    """
    longest, uniforms = uniforms.shape[1], uniforms.to(model.device)

    def draw(logits: torch.Tensor, rows: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        if keep is not None:
            keep.extend(zip(rows.tolist(), steps.tolist(), logits, strict=True))
        return draw_tokens(logits, temperature, uniforms[rows, steps])

    steps = sampled_tokens(model, prompts, stop=stop, pad=pad, longest=longest, draw=draw, at_once=at_once)
    responses: list[list[int]] = [[] for _ in prompts]
    for rows, tokens in steps:
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            responses[row].append(token)
    return responses


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

    Prompts of unlike lengths stand side by side, one of them ends early and another takes its place, as in
    `sample`. Where that fails, all rows have to begin together. A model that passed is not checked again.

    Raises:
        DataError: they differ, because the model does not cache what it read in the way `sample` expects.
    """
    if model in _IN_PLACE:
        return
    for in_place in [True, False] if takes_slots(model) else [False]:
        _IN_PLACE[model] = in_place
        try:
            with torch.autocast(model.device.type, enabled=False):
                _compare(model)
            return
        except BaseException as error:
            del _IN_PLACE[model]
            if not in_place or not isinstance(error, DataError):
                raise


# Models that passed the check, and whether their rows may come and go.
_IN_PLACE: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


@torch.no_grad()
def _compare(model: Any) -> None:
    """See `check_sampling`."""
    model.eval()
    name = type(model).__name__
    vocabulary = model.get_input_embeddings().weight.shape[0]
    random = torch.Generator().manual_seed(0)
    prompts = [torch.randint(vocabulary, (n,), generator=random).tolist() for n in (3, 9, 6)]
    uniforms = torch.rand(len(prompts), 6, generator=random, dtype=torch.float64)

    def plain(ids: list[int]) -> torch.Tensor:
        return model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0].float()

    # The longest prompt is among the two that begin. It ends at once, and the shortest takes its place.
    ends = draw_tokens(plain(prompts[1])[-1:], 1.0, uniforms[1:2, 0].to(model.device)).tolist()
    kept: list[Kept] = []
    try:
        responses = sample(
            model, prompts, stop=ends, pad=0, temperature=1.0, uniforms=uniforms, at_once=2, keep=kept
        )
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"{name} cannot be sampled with a cache ({str(error)[:100]})") from None
    logits = [plain(prompt + response) for prompt, response in zip(prompts, responses, strict=True)]
    if not all(torch.isfinite(row).all() for row in logits):
        raise DataError(f"{name}: its logits are not finite, so its weights are broken")
    worst = max(
        ((ours - logits[i][len(prompts[i]) + t - 1]).square().mean().sqrt() / logits[i].std()).item()
        for i, t, ours in kept
    )
    if not worst < (1e-2 if model.dtype == torch.float32 else 0.3):
        raise DataError(
            f"{name}: sampling with a cache gives other logits than a plain forward, by {worst:.2g} of their "
            "standard deviation; this kind of model cannot be sampled here"
        )


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
    noise = torch.rand(
        len(prompts), max_new_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    responses = sample(
        policy.model,
        prompts,
        stop=policy.stops,
        pad=policy.pad,
        temperature=temperature,
        uniforms=noise,
        at_once=batch_size,
    )
    return [policy.template.text(ids, row) for ids, row in zip(responses, rows, strict=True)]
