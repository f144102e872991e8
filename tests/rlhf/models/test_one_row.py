"""Sequences in one row without padding: the states, gradients and scores of sequences side by side."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from rlhf.models import attention, one_row
from rlhf.models.attention import use_short_attention
from rlhf.models.batches import batch_of, row_batches
from rlhf.models.logprobs import hidden_states, response_logprobs, sequence_scores
from rlhf.models.one_row import takes_one_row
from rlhf.rl.config import PPOConfig
from rlhf.rl.order import ROW_TOKENS, Order

SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 256,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=64),
    "gpt2": GPT2Config(
        vocab_size=50,
        n_embd=256,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
    ),
}
LENGTHS = (5, 40, 17, 2, 63)  # 127 tokens: one more fills the row
ROWS = [torch.randint(2, 50, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in LENGTHS]
BATCH = batch_of(ROWS, [2, 3, 4, 1, 60], pad=0)


def model_of(config: Any, kind: Any = AutoModelForCausalLM) -> Any:
    torch.manual_seed(0)
    model = kind.from_config(copy.deepcopy(config))
    use_short_attention(model)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_states_and_gradients_are_those_of_rows_side_by_side(name: str) -> None:
    model = model_of(CONFIGS[name])
    assert takes_one_row(model)
    shapes: list[torch.Size] = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, inputs: shapes.append(inputs["input_ids"].shape), with_kwargs=True
    )
    results = []
    for lengths in (None, BATCH.lengths):
        model.zero_grad()
        states = hidden_states(model, BATCH.ids, BATCH.before, lengths)
        states.sin().sum().backward()
        results.append((states, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (beside, expected), (in_row, gradients) = results
    torch.testing.assert_close(in_row, beside, atol=1e-5, rtol=1e-5)
    assert shapes[0] == (5, 63)
    assert shapes[-1] == (1, 128)  # and these without padding
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key], atol=2e-4, rtol=1e-3)


def test_log_probabilities_and_scores_are_those_of_each_sequence_alone() -> None:
    policy = model_of(CONFIGS["llama"]).eval()
    scorer = model_of(LlamaConfig(**SMALL, num_labels=1), AutoModelForSequenceClassification).eval()
    assert takes_one_row(scorer)
    logprobs, _ = response_logprobs(policy, BATCH, 0.7)
    scores = sequence_scores(scorer, BATCH.ids, BATCH.lengths)
    alone = [batch_of([row], [start], 0) for row, start in zip(ROWS, [2, 3, 4, 1, 60], strict=True)]
    each = torch.cat([response_logprobs(policy, batch, 0.7)[0] for batch in alone])
    torch.testing.assert_close(logprobs, each, atol=1e-5, rtol=1e-5)
    each = torch.cat([sequence_scores(scorer, batch.ids, batch.lengths) for batch in alone])
    torch.testing.assert_close(scores, each, atol=1e-5, rtol=1e-5)


def test_in_bfloat16_it_is_as_near_to_float32_as_side_by_side() -> None:
    model = model_of(CONFIGS["llama"])
    right = hidden_states(model, BATCH.ids, BATCH.before)
    distance = []
    for lengths in (None, BATCH.lengths):
        with torch.autocast("cpu", torch.bfloat16):
            states = hidden_states(model, BATCH.ids, BATCH.before, lengths)
        distance.append(((states - right).norm() / right.norm()).item())
    assert distance[1] < 1.2 * distance[0]


def test_models_that_would_compute_otherwise_keep_their_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not takes_one_row(model_of(MistralConfig(**SMALL, sliding_window=100)))
    assert not takes_one_row(model_of(LlamaConfig(**SMALL | {"hidden_size": 128})))
    without = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["llama"]))  # PyTorch's attention
    assert not takes_one_row(without)
    with_dropout = model_of(LlamaConfig(**SMALL, attention_dropout=0.5))
    assert takes_one_row(with_dropout)
    assert with_dropout.training  # the check left it as it was
    broken = model_of(CONFIGS["llama"])
    forward = type(broken.model.layers[0].self_attn).forward
    # A layer that does not hand the ends on goes by the mask, which is slow.
    monkeypatch.setattr(
        type(broken.model.layers[0].self_attn),
        "forward",
        lambda self, *a, **more: forward(self, *a, **{k: v for k, v in more.items() if k != attention.ENDS}),
    )
    assert not takes_one_row(broken)
    states = hidden_states(broken, BATCH.ids, BATCH.before, BATCH.lengths)
    assert torch.equal(states, hidden_states(broken, BATCH.ids, BATCH.before))


def test_pytorchs_kernel_goes_by_the_mask() -> None:
    model = model_of(CONFIGS["llama"])
    inputs, at = one_row.one_row(BATCH.ids, BATCH.before, BATCH.lengths)
    inputs.pop(attention.ENDS)
    ids = inputs.pop("input_ids")
    states = hidden_states(model, ids, at, **inputs)
    expected = hidden_states(model, BATCH.ids, BATCH.before)
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)


def test_long_sequences_single_ones_and_very_many_go_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(CONFIGS["llama"])
    one = batch_of(ROWS[:1], [2], pad=0)
    states = [hidden_states(model, one.ids, one.before, lengths) for lengths in (None, one.lengths)]
    assert torch.equal(*states)
    rows: list[torch.Size] = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, inputs: rows.append(inputs["input_ids"].shape), with_kwargs=True
    )
    for bound, value in (("LONGEST", 62), ("TOKENS", 126)):
        with monkeypatch.context() as changed:
            changed.setattr(one_row, bound, value)
            hidden_states(model, BATCH.ids, BATCH.before, BATCH.lengths)
    assert rows == [(5, 63)] * 2
    hidden_states(model, BATCH.ids, BATCH.before, BATCH.lengths)
    assert rows[-1] == (1, 128)


def test_groups_are_few_and_even_and_hold_each_row_once() -> None:
    random = torch.Generator().manual_seed(3)
    for _ in range(50):
        lengths = torch.randint(1, 300, (40,), generator=random).tolist()
        groups = row_batches(lengths, 1000)
        assert sorted(i for group in groups for i in group) == list(range(40))
        tokens = [sum(lengths[i] for i in group) for group in groups]
        assert max(tokens) <= 1000
        assert len(groups) <= -(-sum(lengths) // 1000) + 1
    assert row_batches([3000, 5], 1000) == [[0], [1]]
    assert row_batches([], 1000) == []


def test_micro_batches_have_no_padding_where_the_networks_take_rows() -> None:
    lengths = [400, 390, *(50 + i for i in range(30))]
    order = Order(PPOConfig("unused", batch_size=32), 100, overhead=64, in_rows=True)
    groups = order.micro_batches(range(32), lengths)
    assert sorted(i for group in groups for i in group) == list(range(32))
    long, *short = groups
    assert set(long) == {0, 1}  # longer than the attention of ours is made for: side by side
    assert all(sum(lengths[i] for i in group) <= ROW_TOKENS for group in short)
    assert len(short) == 2  # of 1,935 tokens
    few = Order(PPOConfig("unused", batch_size=32, micro_batch_tokens=500), 100, overhead=64, in_rows=True)
    assert all(sum(lengths[i] for i in group) <= 500 for group in few.micro_batches(range(32), lengths))
