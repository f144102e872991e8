"""What a model says about whole sequences: log-probabilities, entropies, scores, KL.

Sequences are padded behind their ends, and logits are computed only at the positions that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from rlhf.data.errors import DataError
from rlhf.models.batches import Batch, batch_of, last_positions, token_batches
from rlhf.models.one_row import fits_one_row, one_row, takes_one_row
from rlhf.models.policy import Policy
from rlhf.models.template import Row, answered


def hidden_states(
    model: Any, ids: torch.Tensor, at: torch.Tensor, lengths: torch.Tensor | None = None, **inputs: Any
) -> torch.Tensor:
    """The body's last hidden states at flat positions of right-padded ids: [len(at), width].

    Args:
        lengths: tokens of each row, [rows]; where they are given, the rows go through without their padding
            if that is faster.
        inputs: go to the body as they are, such as an attention mask or position ids.
    """
    if lengths is not None and not inputs and fits_one_row(lengths) and takes_one_row(model):
        inputs, at = one_row(ids, at, lengths)
        return hidden_states(model, inputs.pop("input_ids"), at, **inputs)
    with last_layer_only(model.base_model, at):
        out = model.base_model(input_ids=ids, use_cache=False, **inputs).last_hidden_state
    return out.flatten(0, 1)[at]


@contextmanager
def last_layer_only(body: Any, at: torch.Tensor) -> Iterator[None]:
    """Let the last layer's MLP and output projection work on the positions `at` only.

    Nothing reads their results elsewhere: for prompt tokens, only the last layer's keys and values are
    needed. Bodies without a plain `layers[-1].mlp` and a `.self_attn.o_proj` (Llama and its relatives have
    them) are left as they are. So are mixtures of experts, and bodies that compute their layers a second time
    for the gradient.
    """
    layer = getattr(body, "layers", [None])[-1]
    parts: list[Any] = [
        getattr(layer, "mlp", None),
        getattr(getattr(layer, "self_attn", None), "o_proj", None),
    ]
    if not all(map(_plain, parts)) or getattr(layer, "gradient_checkpointing", False):
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


def _plain(part: Any) -> bool:
    """Whether a module maps each position by itself, through linear layers that are the same for all."""
    if not isinstance(part, nn.Module) or any(isinstance(m, nn.ModuleList) for m in part.modules()):
        return False
    return all(
        isinstance(m, nn.Linear)
        for m in part.modules()
        if next(m.parameters(recurse=False), None) is not None
    )


def chosen_logprobs(
    model: Any, states: torch.Tensor, targets: torch.Tensor, temperature: float, *, with_entropy: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of `targets` after hidden states, and entropies (zeros unless asked for), [tokens].

    Logits are divided by the temperature first, as in sampling. At most `LOGITS` of them are in memory at a
    time, and they are computed again for the gradient.
    """

    def part(states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = _logits(model, states, temperature)
        chosen = -cross_entropy(logits, targets, reduction="none")
        if not with_entropy:
            return chosen, torch.zeros_like(chosen)
        everything = logits.log_softmax(-1)
        return chosen, -(everything.exp() * everything).sum(-1)

    chosen, entropy = _in_parts(part, model, states, targets)
    return chosen, entropy


def choices(
    model: Any, states: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a loss and its log need of `targets` after hidden states, each [tokens]: log-probabilities, and
    without a gradient the entropies and whether the target is the likeliest token.

    As many logits are in memory at a time as in `chosen_logprobs`.
    """

    def part(states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = _logits(model, states, 1.0)
        chosen = -cross_entropy(logits, targets, reduction="none")
        with torch.no_grad():
            everything = logits.log_softmax(-1)
            entropy = -(everything.exp() * everything).sum(-1)
            return chosen, entropy, logits.argmax(-1) == targets

    chosen, entropy, likeliest = _in_parts(part, model, states, targets)
    return chosen, entropy, likeliest


def _in_parts(
    part: Callable[..., tuple[torch.Tensor, ...]], model: Any, states: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """What `part` says of states and targets, with the logits of some of them in memory at a time."""
    rows = _rows_at_once(model)
    if len(states) <= rows:
        return part(states, targets)
    parts = [
        checkpoint(part, s, t, use_reentrant=False)
        for s, t in zip(states.split(rows), targets.split(rows), strict=True)
    ]
    return tuple(torch.cat(some) for some in zip(*parts, strict=True))


LOGITS = 1 << 24  # at most this many are in memory at a time, 64 MB of them


def _logits(model: Any, states: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logits after hidden states, divided by the temperature, [states, vocabulary]."""
    logits = model.get_output_embeddings()(states).float()
    if cap := getattr(model.config, "final_logit_softcapping", None):
        logits = torch.tanh(logits / cap) * cap
    return logits / temperature


def _rows_at_once(model: Any) -> int:
    """For how many hidden states the logits may be in memory at a time."""
    return max(1, LOGITS // model.get_output_embeddings().weight.shape[0])


def response_logprobs(
    model: Any, batch: Batch, temperature: float, *, with_entropy: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of a batch's response tokens and the entropy there, both [tokens]."""
    states = hidden_states(model, batch.ids, batch.before, batch.lengths)
    return chosen_logprobs(model, states, batch.targets, temperature, with_entropy=with_entropy)


def check_head(model: Any) -> None:
    """Check that logits are the output embeddings applied to the last hidden state.

    Raises:
        DataError: the model changes its logits in a way that `chosen_logprobs` does not know, or they are not
            finite.
    """
    ids = torch.arange(4, device=model.device).remainder(model.config.vocab_size).unsqueeze(0)
    with torch.no_grad():
        lengths, before = torch.tensor([4]), torch.arange(3, device=ids.device)
        ours, _ = response_logprobs(model, Batch(ids, lengths, before, ids[0, 1:]), 1.0)
        logits = model(input_ids=ids, use_cache=False).logits[0, :3].float()
        theirs = logits.log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1)
    if not torch.isfinite(theirs).all():
        raise DataError(f"{type(model).__name__}: its logits are not finite, so its weights are broken")
    # A logit of 30 in bfloat16, whose steps are 1/8 there, may be rounded either way.
    if not torch.allclose(ours, theirs, atol=1e-2 if model.dtype == torch.float32 else 0.25):
        raise DataError(f"{type(model).__name__}: its logits are not its head on its last hidden state")


@torch.no_grad()
def mean_kl(
    policy: Policy,
    reference: Policy,
    rows: Sequence[Row],
    completions: Sequence[str],
    *,
    temperature: float,
) -> float:
    """KL(policy, reference) in nats a sequence, on samples of the policy; never negative.

    At each token the exact divergence of the two next-token distributions is taken; only the tokens before it
    are a sample (the Rao-Blackwellised estimator of Amini et al. 2025, arXiv:2504.10637). Its expectation is
    that of the mean log-ratio of the sampled tokens. That one varies more, and falls below 0 by chance when
    the policies are close.
    """
    temperature = max(temperature, 1e-2)
    models = (policy.model, reference.model)
    for model in models:
        check_head(model)
    encoded, starts = answered(policy.template, rows, completions, policy.context, sampled=True)
    total, device = 0.0, policy.model.device
    for group in token_batches([len(ids) for ids in encoded], 16384):
        batch = batch_of([encoded[i] for i in group], [starts[i] for i in group], policy.pad, device)
        states = [hidden_states(model, batch.ids, batch.before, batch.lengths) for model in models]
        for parts in zip(*(part.split(_rows_at_once(policy.model)) for part in states), strict=True):
            ours, theirs = (
                _logits(model, part, temperature).log_softmax(-1)
                for model, part in zip(models, parts, strict=True)
            )
            total += (ours.exp() * (ours - theirs)).sum().item()
    return max(0.0, total / len(encoded))  # rounding may bring equal policies below 0


def sequence_scores(model: Any, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """A one-label model's score at the last real token of each right-padded row, [rows]."""
    return head_scores(model, hidden_states(model, ids, last_positions(ids, lengths), lengths))


def head_scores(model: Any, states: torch.Tensor) -> torch.Tensor:
    """A one-label model's scores of hidden states, [states], in the head's own type, which is float32.

    The constant `config.reward_shift` is taken off, so that references score 0 on average.
    """
    with torch.autocast(states.device.type, enabled=False):  # scores in bfloat16 would often tie
        scores = model.score(states.to(model.score.weight.dtype)).squeeze(-1).float()
    return scores - getattr(model.config, "reward_shift", 0.0)
