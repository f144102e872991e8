"""The arithmetic of models whose weights lie in bfloat16, on a processor that multiplies float32 faster."""

from __future__ import annotations

import contextlib
import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from rlhf.compute import arithmetic, autocast, cast_frozen_once, casts_kept, compute_in_float32
from rlhf.models.adapters import add_adapters
from rlhf.settings import Lora
from rlhf.training.loop import learner

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])


@pytest.fixture(autouse=True)
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without instructions for bfloat16, whichever runs the tests."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)


@pytest.mark.parametrize(
    ("flags", "tiles", "width"),
    [
        ({}, False, None),
        ({}, True, 256),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC 9354"}, False, 128),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, False, None),
        ({"avx512_bf16": False, "cpu_name": "AMD EPYC 7763"}, False, None),
    ],
)
def test_wide_models_compute_in_bf16_where_the_cpu_multiplies_faster_in_it(
    flags: dict[str, Any], tiles: bool, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    cpu = torch.device("cpu")
    assert arithmetic("auto", cpu, width or 4096) == (torch.bfloat16 if width else torch.float32)
    assert arithmetic("auto", cpu, (width or 4096) - 1) == torch.float32


def narrow(kind: str) -> Any:
    """A model in bfloat16; GPT-2 has biases and weights the other way round, Llama here a head of its own."""
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1)
        return GPT2LMHeadModel(config).bfloat16().eval()
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).bfloat16().eval()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_it_computes_what_the_same_weights_in_float32_do(kind: str) -> None:
    model = narrow(kind)
    wide = copy.deepcopy(model).float()
    compute_in_float32(model)
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, wide(input_ids=IDS).logits)
    matrices = {name for name, p in model.named_parameters() if p.dtype == torch.bfloat16}
    assert len(matrices) == {"llama": 2 * 7, "gpt2": 2 * 4}[kind]
    assert model.dtype == torch.float32  # what asks a model for its type gets that of its arithmetic


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adapters_on_it_have_the_gradients_of_float32(kind: str) -> None:
    model = narrow(kind)
    wide = copy.deepcopy(model).float()
    compute_in_float32(model)
    gradients = []
    for one in (model, wide):
        adapted = add_adapters(one, Lora(rank=2))
        random = torch.Generator().manual_seed(0)
        learning = [p for p in adapted.parameters() if p.requires_grad]
        with torch.no_grad():
            for p in learning:
                p.copy_(torch.randn(p.shape, generator=random) * 0.1)
        adapted(input_ids=IDS).logits.logsumexp(-1).square().sum().backward()
        assert {p.dtype for p in learning} == {torch.float32}
        gradients.append(torch.cat([p.grad.flatten() for p in learning]))
    assert gradients[0].abs().max() > 0.1
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_weights_that_learn_have_their_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model = narrow("llama")
    wide = copy.deepcopy(model).float()
    compute_in_float32(model)
    for one in (model, wide):
        one(input_ids=IDS).logits.logsumexp(-1).square().sum().backward()
    ours, theirs = (one.model.layers[0].mlp.up_proj.weight.grad.float() for one in (model, wide))
    torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=2e-2)


def test_fp32_is_obeyed_where_bfloat16_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    model = narrow("llama")
    model.config.hidden_size = 256
    wide = copy.deepcopy(model).float()
    adapted = add_adapters(model, Lora(rank=2))
    held: Any = SimpleNamespace(model=model, adapters=adapted)
    assert learner(held, "auto") is adapted
    assert model.dtype == torch.bfloat16
    for _ in range(2):  # what computes so already is left as it is
        learner(held, "fp32")
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, wide(input_ids=IDS).logits)
    assert sum(p.dtype == torch.bfloat16 for p in model.parameters()) == 2 * 7


def test_where_bfloat16_pays_and_where_weights_are_wide_nothing_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = narrow("llama").float()
    compute_in_float32(wide)
    assert type(wide.model.layers[0].mlp.up_proj) is torch.nn.Linear
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    model = narrow("llama")
    model.config.hidden_size = 256
    compute_in_float32(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear


def test_frozen_matrices_are_cast_once_and_give_what_autocast_gives() -> None:
    model = narrow("llama").float()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def logits() -> torch.Tensor:
        with torch.no_grad(), autocast(CPU, torch.bfloat16):
            return model(input_ids=IDS).logits

    model.model.layers[1].requires_grad_(False)
    expected = logits()
    cast_frozen_once(model)
    assert torch.equal(logits(), expected)
    assert [type(layer.mlp.up_proj).__name__ for layer in model.model.layers] == ["Linear", "_CastOnce"]
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with torch.no_grad():  # whoever changes the weight nevertheless gets its new values
        model.model.layers[1].mlp.up_proj.weight.add_(1)
    changed = logits()
    assert not torch.equal(changed, expected)
    assert torch.equal(copy.deepcopy(model)(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_kept_casts_give_the_gradients_of_casts_in_each_pass() -> None:
    gradients = []
    for kept in (False, True):
        model, casts = narrow("llama").float(), []
        weight = model.model.layers[0].mlp.up_proj.weight
        with casts_kept(CPU) if kept else contextlib.nullcontext():
            for ids in IDS.split(1):
                with autocast(CPU, torch.bfloat16):
                    model(input_ids=ids).logits.logsumexp(-1).sum().backward()
                with torch.autograd.profiler.profile() as profile, autocast(CPU, torch.bfloat16):
                    model.model.layers[0].mlp.up_proj(torch.zeros(1, 16))
                casts.append(sum(event.name == "aten::_to_copy" for event in profile.function_events))
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        assert casts == ([1, 1] if kept else [2, 2])  # the state, and the weight
        assert weight.grad.dtype == torch.float32
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name])
