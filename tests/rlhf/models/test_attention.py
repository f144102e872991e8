"""Attention for short sequences: PyTorch's results and gradients, and its kernel for everything else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from rlhf.models import attention
from rlhf.models.attention import use_short_attention
from rlhf.models.packing import pack

SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
NO_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=8),
    "mistral": MistralConfig(**SMALL, sliding_window=100),
    "gpt2": GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1, **NO_DROPOUT
    ),
    "gpt_neox": GPTNeoXConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    ),
}
IDS = torch.randint(50, (5, 12), generator=torch.Generator().manual_seed(1))


def pair(config: Any) -> tuple[Any, Any]:
    """Two equal models: with PyTorch's attention, and with ours."""
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(config)
    ours = copy.deepcopy(theirs)
    use_short_attention(ours)
    return theirs, ours


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of tokens that our attention was computed for."""
    counted: list[int] = []
    apply = attention._Attention.apply

    def counting(*args: Any) -> Any:
        counted.append(args[0].shape[2])
        return apply(*args)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(attention._Attention, "apply", counting)
    return counted


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("scores", [1, 1 << 19])  # a row at a time, and all at once
def test_results_and_gradients_are_those_of_pytorchs_kernel(
    name: str, scores: int, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SCORES", scores)
    theirs, ours = pair(CONFIGS[name])
    layers = CONFIGS[name].num_hidden_layers
    results = []
    for model in (theirs.double(), ours.double()):
        # Double precision goes to PyTorch's kernel, so this holds the two models equal before the cast.
        results.append(model(input_ids=IDS).logits)
    assert torch.equal(*results)
    assert not calls
    for model in (theirs.float(), ours.float()):
        # as a trainer of transformers calls it
        out = model(input_ids=IDS, labels=IDS, num_items_in_batch=torch.tensor(7))
        (out.loss + out.logits.logsumexp(-1).square().mean()).backward()
    assert calls == [12] * layers
    torch.testing.assert_close(ours(input_ids=IDS).logits, theirs(input_ids=IDS).logits, atol=1e-5, rtol=1e-5)
    gradients = [dict(model.named_parameters()) for model in (ours, theirs)]
    for key, p in gradients[0].items():
        torch.testing.assert_close(p.grad, gradients[1][key].grad, atol=1e-5, rtol=1e-4)


def test_sequences_of_one_prompt_in_a_row_see_what_their_mask_shows(calls: list[int]) -> None:
    theirs, ours = pair(CONFIGS["llama"])
    rows = [[[3, 4, 5, 6], [3, 4, 7]], [[8, 9, 10], [8, 11, 12, 13, 14]]]
    packed = pack(rows, pad=0)
    packed.pop("ends")
    results = [model.model(**packed, use_cache=False).last_hidden_state for model in (theirs, ours)]
    real = packed["attention_mask"].squeeze(1).eq(0).any(-1)  # what padding sees is nobody's
    torch.testing.assert_close(results[1][real], results[0][real], atol=1e-5, rtol=1e-5)
    assert len(calls) == 2


def test_bfloat16_is_as_near_to_float32_as_pytorchs_kernel() -> None:
    torch.manual_seed(0)
    q, k, v, g = (torch.randn(3, 4, 20, 16).requires_grad_() for _ in range(4))

    def results(kind: torch.dtype, name: str) -> list[torch.Tensor]:
        a, b, c = (x.detach().to(kind).requires_grad_() for x in (q, k, v))
        module = torch.nn.Module()
        compute = attention._attention if name == "ours" else attention.sdpa_attention_forward
        out, _ = compute(module, a, b, c, None, is_causal=True)
        grads = torch.autograd.grad(out, (a, b, c), g.detach().transpose(1, 2).to(kind))
        return [x.float() for x in (out.contiguous(), *grads)]

    right = results(torch.float32, "theirs")
    distances = {
        name: [(x - y).norm() / y.norm() for x, y in zip(results(torch.bfloat16, name), right, strict=True)]
        for name in ("ours", "theirs")
    }
    for ours, theirs in zip(distances["ours"], distances["theirs"], strict=True):
        assert ours < max(1.5 * theirs, torch.tensor(5e-3))


def test_under_autocast_it_takes_over_though_rotary_embeddings_are_in_float32(calls: list[int]) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"]).eval()
    ids = torch.arange(40).view(2, 20)
    gradients = []
    for fast in (False, True):
        if fast:
            use_short_attention(model)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            model(input_ids=ids, use_cache=False).logits.float().logsumexp(-1).sum().backward()
        assert bool(calls) == fast
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad)
    assert torch.nn.functional.cosine_similarity(*(g.flatten() for g in gradients), dim=0) > 0.99


def test_padding_in_front_a_window_and_long_sequences_go_to_pytorchs_kernel(
    calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = pair(CONFIGS["llama"])
    mask = torch.ones_like(IDS)
    mask[0, :4] = 0
    assert torch.equal(*(model(input_ids=IDS, attention_mask=mask).logits for model in (theirs, ours)))
    windows = pair(Gemma3TextConfig(**SMALL, head_dim=8, sliding_window=4))
    assert torch.equal(*(model(input_ids=IDS).logits for model in windows))
    monkeypatch.setattr(attention, "LONGEST", 11)
    assert torch.equal(*(model(input_ids=IDS).logits for model in (theirs, ours)))
    assert not calls


def test_nothing_of_it_is_saved_and_another_attention_stays(tmp_path: Path) -> None:
    _, ours = pair(CONFIGS["llama"])
    ours.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama"
    eager = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    use_short_attention(eager)
    assert eager.config._attn_implementation == "eager"
