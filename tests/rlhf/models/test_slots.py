"""Rows come and go while others are sampled: each response is what it is by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from rlhf.models import sampling, slots
from rlhf.models.attention import use_short_attention
from rlhf.models.sampling import check_sampling, sample

SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
STOP, PAD, LONGEST = 1, 0, 30
LENGTHS = (5, 17, 2, 9, 9, 30, 1, 12, 3, 26, 8, 4)
RANDOM = torch.Generator().manual_seed(3)
PROMPTS = [torch.randint(2, 60, (n,), generator=RANDOM).tolist() for n in LENGTHS]
PROMPTS += PROMPTS[:3]
NOISE = torch.rand(len(PROMPTS), LONGEST, generator=RANDOM, dtype=torch.float64)


def llama(**more: Any) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL | more)).eval()


def responses(model: Any, at_once: int | None = None) -> list[list[int]]:
    return sample(model, PROMPTS, stop=[STOP], pad=PAD, temperature=1.0, uniforms=NOISE, at_once=at_once)


def alone(model: Any) -> list[list[int]]:
    return [
        sample(model, [prompt], stop=[STOP], pad=PAD, temperature=1.0, uniforms=NOISE[i : i + 1])[0]
        for i, prompt in enumerate(PROMPTS)
    ]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and tokens of each pass from now on."""
    seen: list[tuple[int, int]] = []
    forward = slots._last_logits

    def spy(model: Any, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append((ids.shape[0], ids.shape[1]))
        return forward(model, ids, *rest)

    monkeypatch.setattr(slots, "_last_logits", spy)
    return seen


@pytest.mark.parametrize("slack", [1, 3, 16])
def test_a_response_is_what_it_is_by_itself_whoever_comes_and_goes(
    slack: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With little slack the rows are moved at every step or at every third."""
    monkeypatch.setattr(slots, "SLACK", slack)
    monkeypatch.setattr(slots, "MOVED", 1)  # a row at a time
    model = llama()
    expected = alone(model)
    assert len({len(response) for response in expected}) > 5
    for at_once in (1, 4, 6, None):
        assert responses(model, at_once) == expected
    assert sampling._IN_PLACE[model] is True


def test_a_policy_as_it_is_loaded_has_rows_that_come_and_go() -> None:
    model = llama()
    use_short_attention(model)
    assert responses(model, at_once=6) == alone(llama())
    assert sampling._IN_PLACE[model] is True


def test_waiting_prompts_take_the_places_of_rows_that_have_ended(passes: list[tuple[int, int]]) -> None:
    model = llama()
    check_sampling(model)
    passes.clear()
    responses(model, at_once=6)
    decoded = [rows for rows, tokens in passes if tokens == 1]
    last_read = max(number for number, (_, tokens) in enumerate(passes) if tokens > 1)
    assert max(decoded) == 6
    while_others_wait = [rows for rows, tokens in passes[:last_read] if tokens == 1]
    assert min(while_others_wait) >= 5  # a quarter of the places may be free
    assert sum(decoded) == sum(len(response) - 1 for response in alone(model))  # nobody is sampled in vain


def test_a_token_is_written_into_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a change of rows, or the end of the slack, moves what the cache holds."""
    model = llama()
    check_sampling(model)
    moved: list[int] = []
    move = slots.Layer.move

    def spy(layer: Any, columns: int, *rest: Any) -> None:
        moved.append(columns)
        move(layer, columns, *rest)

    monkeypatch.setattr(slots.Layer, "move", spy)
    noise = torch.full((1, LONGEST), 0.5, dtype=torch.float64)
    got = sample(model, [PROMPTS[0]], stop=[], pad=PAD, temperature=1.0, uniforms=noise)
    assert len(got[0]) == LONGEST
    assert len(moved) == SMALL["num_hidden_layers"] * ((LONGEST - 2) // slots.SLACK)


def test_a_cache_larger_than_may_be_takes_fewer_rows(
    monkeypatch: pytest.MonkeyPatch, passes: list[tuple[int, int]]
) -> None:
    model = llama()
    whole = responses(model)
    per_token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, width, bytes
    monkeypatch.setattr(slots, "CACHE_BYTES", 20 * (max(LENGTHS) + LONGEST) * per_token)
    passes.clear()
    copies = PROMPTS * 2
    noise = NOISE.repeat(2, 1)
    got = sample(model, copies, stop=[STOP], pad=PAD, temperature=1.0, uniforms=noise)
    assert got == whole * 2
    assert max(rows for rows, tokens in passes if tokens == 1) == 20


@pytest.mark.parametrize(
    "model",
    [
        llama(attn_implementation="eager"),
        GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2)),
    ],
    ids=["eager", "gpt2"],
)
def test_other_attention_and_other_architectures_sample_alike(model: Any) -> None:
    assert responses(model, at_once=6) == alone(model)


class TwoDimensional(LlamaForCausalLM):
    """Understands a mask of padding only."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):  # type: ignore[no-untyped-def]
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError("attention_mask has to be [rows, tokens]")
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


class Offset(LlamaForCausalLM):
    """Takes any mask, and reads of the shape of one with four dimensions how far it is."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):  # type: ignore[no-untyped-def]
        if attention_mask is not None and attention_mask.ndim == 4:
            position_ids = position_ids * 0 + attention_mask.shape[-1]
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
        )


@pytest.mark.parametrize("kind", [TwoDimensional, Offset])
def test_a_model_that_cannot_have_rows_come_and_go_is_sampled_in_batches(
    kind: type, passes: list[tuple[int, int]]
) -> None:
    plain = llama()
    model = kind(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    assert responses(model, at_once=6) == alone(plain)
    assert sampling._IN_PLACE[model] is False
    assert sampling._IN_PLACE[plain] is True
