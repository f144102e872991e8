"""What a base model cannot be is said from its config and the headers of its weights, in one line."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import MODELS
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf.data.errors import DataError
from rlhf.models import base_checks
from rlhf.models.base import loaded_dtype
from rlhf.models.base_checks import (
    check_options,
    known_config,
    memory,
    memory_needed,
    refuse_no_disk,
    refuse_no_memory,
    try_miniature,
)
from rlhf.models.base_source import Source, find

QWEN = {
    **{"model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16},
    **{"num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936},
    **{"tie_word_embeddings": True, "max_position_embeddings": 40960},
}


def source(folder: Path, config: dict, dtype: str = "BF16") -> Source:
    """A model folder that holds a config and the header of weights, and no weights."""
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps({"a": {"dtype": dtype, "shape": [100], "data_offsets": [0, 200]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return find("here", None, folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "other"}, r"transformers \S+ does not know the architecture 'other'; upgrade"),
        ({}, r"does not know the architecture None"),
        ({"model_type": "other", "auto_map": {"AutoConfig": "a.B"}}, r"other models need code of their own"),
        ({"model_type": "t5"}, r"an encoder-decoder model \(t5\); a causal language model is needed"),
        ({"model_type": "gemma3"}, r"a gemma3 model reads more than text; take one of text alone"),
        ({"model_type": "vit"}, r"no causal language model for vit models"),
        ({"model_type": "mamba"}, r"mamba models keep a state in place of a cache of keys and values"),
        ({"model_type": "falcon_h1"}, r"falcon_h1 models keep a state"),
        ({"model_type": "jamba"}, r"jamba models keep a state"),
        ({"model_type": "qwen3_next"}, r"qwen3_next models keep a state"),
        ({"model_type": "olmoe"}, r"no sequence classification for olmoe models"),
        (
            QWEN | {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            r"quantised \(gptq\); take the model that was quantised",
        ),
        (QWEN | {"hidden_size": "wide"}, r"config\.json cannot be read: "),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_by_its_config(config, message, tmp_path) -> None:
    with pytest.raises(DataError, match=rf"^here: [^\n]*{message}[^\n]*$"):
        known_config(source(tmp_path, config))


def test_weights_in_eight_bits_are_refused_by_their_header(tmp_path) -> None:
    with pytest.raises(DataError, match=r"weights of type F8_E4M3; float32, bfloat16 or float16 are needed"):
        known_config(source(tmp_path, QWEN, "F8_E4M3"))


def test_code_beside_a_known_architecture_is_never_run(tmp_path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('this ran')")
    auto_map = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    config = known_config(source(tmp_path, QWEN | {"auto_map": auto_map}))
    assert type(config).__module__.startswith("transformers.models.qwen3")


@pytest.mark.parametrize("kind", ["minimax", "bert", "ctrl", "openai-gpt"])
def test_an_architecture_that_the_self_checks_refuse_is_refused_in_miniature(kind) -> None:
    """None of them can be told by a name or a flag; the whole model would take gigabytes to find out."""
    config = AutoConfig.for_model(kind, **({"is_decoder": True} if kind == "bert" else {}))
    with pytest.raises(DataError, match=r"^here: [^\n]*$"):
        try_miniature("here", config)


@pytest.mark.parametrize(
    "kind", [*(k for k in MODELS if k not in ("mamba", "falcon_h1", "olmoe")), "gpt2", "qwen3", "deepseek_v3"]
)
def test_a_miniature_of_a_large_model_passes_in_a_moment(kind) -> None:
    before, state = time.monotonic(), torch.get_rng_state()
    config = AutoConfig.for_model(kind)
    assert base_checks._miniature(config).num_parameters() < 200_000
    try_miniature("here", config)
    assert time.monotonic() - before < 60
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters_and_memory_are_counted_without_memory() -> None:
    """Qwen3-0.6B has 596,049,920 weights, 440,467,456 of them not in the embeddings."""
    config = AutoConfig.for_model(**QWEN)
    whole = memory_needed(config, torch.float32, None)
    assert whole == {"parameters": 596_049_920, "sft": 16 * 596_049_920, "ppo": 40 * 596_049_920}
    lora = {"rank": 16, "targets": "auto"}
    attention = 16 * (1024 + 2048) * 2 + 16 * (1024 + 1024) * 2
    adapters = 28 * (attention + 16 * 3 * (1024 + 3072))
    few = memory_needed(config, torch.bfloat16, lora)
    assert few["sft"] == 2 * 596_049_920 + 16 * adapters
    assert few["ppo"] == 2 * 596_049_920 + 40 * adapters
    linear = 28 * (1024 * (2048 + 1024 + 1024) + 2048 * 1024 + 3 * 1024 * 3072)
    four = memory_needed(config, torch.bfloat16, lora, "4bit")
    assert few["sft"] - four["sft"] == 2 * linear - linear // 2
    queries = memory_needed(config, torch.bfloat16, {"rank": 8, "targets": ["q_proj"]})
    assert queries["sft"] == 2 * 596_049_920 + 16 * 28 * 8 * (1024 + 2048)
    # GPT-2's layers are no nn.Linear: attention 768 to 2304 and 768 to 768, MLP 768 to 3072 and back.
    gpt2 = memory_needed(AutoConfig.for_model("gpt2"), torch.float32, lora)
    adapters = 12 * 16 * ((768 + 2304) + (768 + 768) + 2 * (768 + 3072))
    assert gpt2["sft"] == 4 * gpt2["parameters"] + 16 * adapters
    ends = memory_needed(config, torch.bfloat16, {"rank": 8, "targets": ["self_attn.q_proj"]})
    assert ends == queries


def test_targets_that_no_layer_has_are_refused_before_there_are_weights() -> None:
    with pytest.raises(DataError, match=r"base\.lora\.targets: no linear layer 'c_attn' .* set it to auto"):
        memory_needed(AutoConfig.for_model(**QWEN), torch.bfloat16, {"rank": 8, "targets": ["c_attn"]})


def test_a_model_without_room_in_memory_is_refused_with_what_is_needed_and_there(monkeypatch) -> None:
    monkeypatch.setattr(base_checks, "memory", lambda: (int(15e9), "this machine"))
    whole = memory_needed(AutoConfig.for_model(**QWEN), torch.float32, None)
    warning = refuse_no_memory("here", whole, lora=False)
    assert warning.startswith(
        "PPO will need 23.8 GB of memory for its networks, and this machine has 15.0 GB"
    )
    monkeypatch.setattr(base_checks, "memory", lambda: (int(8e9), "the GPU"))
    with pytest.raises(DataError) as refused:
        refuse_no_memory("here", whole, lora=False)
    assert str(refused.value) == (
        "here needs 9.5 GB of memory for SFT (0.60 B parameters, all of them learning; activations come on "
        "top), and the GPU has 8.0 GB; set base.lora, or take a smaller model"
    )
    few = memory_needed(AutoConfig.for_model(**QWEN), torch.bfloat16, {"rank": 16, "targets": "auto"})
    assert refuse_no_memory("here", few, lora=True) is None


def test_memory_is_that_of_the_container_where_it_has_less(tmp_path, monkeypatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(base_checks, "LIMITS", (str(limit),))
    whole = memory()[0]
    for text, expected in (("max\n", (whole, "this machine")), ("1000000\n", (1_000_000, "this container"))):
        limit.write_text(text)
        assert memory() == expected


def test_a_model_without_room_on_the_disk_is_refused_with_what_is_needed_and_there(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(base_checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=int(3e9)))
    needs = [("the download", tmp_path / "not" / "yet", int(1.2e9)), ("models", tmp_path, int(1.2e9))]
    refuse_no_disk("here", needs)
    with pytest.raises(DataError) as refused:
        refuse_no_disk("here", [*needs, ("DVC's cache", tmp_path, int(1.2e9))])
    assert str(refused.value) == (
        "here needs 3.6 GB of disk (1.2 GB for the download, 1.2 GB for models, 1.2 GB for DVC's cache), and "
        f"3.0 GB are free at {tmp_path}; make room, or point HF_HOME or the project to another disk"
    )


def test_what_an_architecture_cannot_do_is_refused() -> None:
    config = AutoConfig.for_model(**QWEN)
    check_options("here", config, context=40960, attention="eager", checkpointing=True)
    check_options("here", AutoConfig.for_model("bloom"), context=1_000_000)
    with pytest.raises(DataError, match=r"here reaches 40960 tokens, and base\.context is 40961; lower it"):
        check_options("here", config, context=40961)
    with pytest.raises(
        DataError, match=r"base\.attention nothing cannot be had here: [^\n]*; set it to null$"
    ):
        check_options("here", config, attention="nothing")
    with pytest.raises(
        DataError, match=r"CTRLLMHeadModel has no gradient checkpointing; set base\.gradient_"
    ):
        check_options("here", AutoConfig.for_model("ctrl"), checkpointing=True)
    assert config._attn_implementation is None


@pytest.mark.parametrize(
    ("stored", "setting", "lora", "expected"),
    [
        ("BF16", "auto", True, torch.bfloat16),
        ("F16", "auto", True, torch.bfloat16),
        ("F32", "auto", True, torch.float32),
        ("BF16", "auto", False, torch.float32),
        ("F32", "bfloat16", True, torch.bfloat16),
        ("BF16", "float32", True, torch.float32),
    ],
)
def test_the_type_of_the_weights(stored, setting, lora, expected, tmp_path) -> None:
    assert loaded_dtype(source(tmp_path, QWEN, stored), setting, lora) == expected


def test_weights_that_learn_are_never_bfloat16(tmp_path) -> None:
    with pytest.raises(DataError, match=r"base\.dtype is bfloat16 and base\.lora is null: [^\n]*$"):
        loaded_dtype(source(tmp_path, QWEN), "bfloat16", False)


def test_the_flag_of_models_that_keep_a_state_is_still_there() -> None:
    """It is private to transformers; without it such models are refused only once they are whole."""
    stateful = [name for name in ("mamba", "jamba", "llama") if _flag(name)]
    assert stateful == ["mamba", "jamba"]


def _flag(kind: str) -> bool:
    return AutoModelForCausalLM._model_mapping[type(AutoConfig.for_model(kind))]._is_stateful
