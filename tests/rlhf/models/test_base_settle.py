"""What later stages need is settled when a base model is brought, and each change is said."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_base_models import bare_tokenizer
from tiny_models import tiny_model
from tiny_ppo import PROMPTS, words_tokenizer

from rlhf.data.errors import DataError
from rlhf.data.model_folder import weights_hash
from rlhf.models.base import Base, load_base, read_text, save_base, stored_dtype
from rlhf.models.base_source import fetch, find
from rlhf.models.policy import load_policy
from rlhf.models.sampling import generate
from rlhf.models.template import as_row

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKERS = ("<|im_start|>", "<|im_end|>")


def folder_of(
    model: Any, tokenizer: Any, folder: Path, dtype: torch.dtype = torch.float32, **generation: Any
) -> Path:
    """A model folder as a user has it."""
    folder.mkdir(exist_ok=True)
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settled(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    template: str = "auto",
    arguments: dict[str, Any] | None = None,
    **more: Any,
) -> Base:
    source = fetch(find("here", None, folder))
    return load_base(source, read_text(source, template, arguments or {}), dtype=dtype, **more)


def brought(folder: Path, to: Path, dtype: torch.dtype = torch.float32, **more: Any) -> tuple[Any, dict]:
    """The policy that later stages load, and what is told of it."""
    told = save_base(settled(folder, dtype, **more), to / "pretrained")
    return load_policy(to / "pretrained"), told


@pytest.mark.parametrize(
    "kind", ["llama", "gpt_neox", "bloom", "mistral", "gemma3_text", "qwen3_moe", "gpt_oss"]
)
def test_a_model_that_needs_no_change_keeps_its_weights_byte_for_byte(kind, tmp_path) -> None:
    tokenizer = words_tokenizer()
    model = tiny_model(kind, tokenizer)
    folder = folder_of(model, tokenizer, tmp_path / "own")
    policy, told = brought(folder, tmp_path)
    assert told["changes"] == []
    new = tmp_path / "pretrained" / "model.safetensors"
    assert new.read_bytes() == (folder / "model.safetensors").read_bytes()
    assert not new.samefile(folder / "model.safetensors")  # a user may write their own file again, in place
    assert told["hash"] == weights_hash(tmp_path / "pretrained") == weights_hash(folder)
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(policy.model(ids).logits, model(ids).logits)
    assert told["parameters"] == sum(p.numel() for p in policy.model.parameters())
    assert (told["architecture"], told["dtype"]) == (type(model).__name__, "float32")
    assert (told["pad"], told["stops"], told["template"]) == ("<pad>", ["<eos>"], "plain")
    assert told["context"] == policy.context


def test_a_model_of_the_hub_shares_its_weights_with_the_cache(hub, tmp_path) -> None:
    tokenizer = words_tokenizer()
    own = folder_of(tiny_model("llama", tokenizer), tokenizer, tmp_path / "own")
    (own / "README.md").write_text("---\nlicense: other\nlicense_name: llama3.1\n---\n")
    source = fetch(find("team/llama", hub.add("team/llama", own), None))
    told = save_base(
        load_base(source, read_text(source, "auto", {}), dtype=torch.float32), tmp_path / "pretrained"
    )
    new = tmp_path / "pretrained" / "model.safetensors"
    assert new.samefile(source.folder / "model.safetensors")
    assert not new.is_symlink()
    assert (told["name"], told["revision"], told["licence"]) == ("team/llama", source.revision, "llama3.1")
    assert not list((tmp_path / "pretrained").glob("*.md"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_a_pad_token_that_is_eos_gets_a_row_of_its_own_which_is_the_mean(tied, dtype, tmp_path) -> None:
    tokenizer = bare_tokenizer(pad="<eos>")
    model = tiny_model("llama", tokenizer, tie_word_embeddings=tied)
    folder = folder_of(model, tokenizer, tmp_path / "own", dtype)
    policy, told = brought(folder, tmp_path)
    rows = len(tokenizer)
    assert policy.pad == rows
    assert told["vocabulary"] == rows + 1 == len(policy.model.get_output_embeddings().weight)
    assert told["changes"][-2:] == [
        "the tokenizer had no pad token of its own; it pads with '<pad>' now",
        f"the embeddings grew from {rows} to {rows + 1} rows; the new one is the mean of the others",
    ]
    stored = load_file(tmp_path / "pretrained" / "model.safetensors")
    before = load_file(folder / "model.safetensors")
    names = ["model.embed_tokens.weight", "lm_head.weight"][: 1 if tied else 2]
    for name in names:
        assert stored[name].dtype == dtype
        torch.testing.assert_close(stored[name][:rows], before[name], rtol=0, atol=0)
        mean = before[name].double().mean(0).to(dtype)
        torch.testing.assert_close(
            stored[name][rows], mean, rtol=1e-2 if dtype != torch.float32 else 1e-5, atol=1e-6
        )
    assert ("lm_head.weight" in stored) is not tied
    assert policy.model.config.vocab_size == rows + 1
    assert (
        len(generate(policy, [as_row(p) for p in PROMPTS[:2]], temperature=1.0, max_new_tokens=3, seed=0))
        == 2
    )


def test_a_pad_token_that_ends_an_answer_is_no_pad_token(tmp_path) -> None:
    """As Qwen ships: pad is one of the two tokens at which its generation config stops."""
    tokenizer = bare_tokenizer("<|endoftext|>", "<|vision_pad|>", pad="<|endoftext|>")
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    folder = folder_of(tiny_model("llama", tokenizer), tokenizer, tmp_path / "own", eos_token_id=ends)
    policy, told = brought(folder, tmp_path)
    assert (told["pad"], told["stops"]) == ("<|vision_pad|>", ["<eos>", "<|endoftext|>"])
    assert policy.stops == sorted(ends)
    assert policy.pad not in policy.stops
    assert told["changes"] == ["the tokenizer had no pad token of its own; it pads with '<|vision_pad|>' now"]
    config = json.loads((tmp_path / "pretrained" / "generation_config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (ends, policy.pad)


def test_added_tokens_beyond_the_embeddings_get_rows_and_ordinary_ones_are_refused(tmp_path) -> None:
    tokenizer = words_tokenizer()
    rows = len(tokenizer)
    model = tiny_model("llama", tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<audio>"]})
    folder = folder_of(model, tokenizer, tmp_path / "own")
    policy, told = brought(folder, tmp_path)
    assert told["vocabulary"] == rows + 2 == len(policy.model.get_input_embeddings().weight)
    assert f"the embeddings grew from {rows} to {rows + 2} rows" in told["changes"][0]
    small = tiny_model("llama", words_tokenizer(), vocab_size=rows - 5)
    with pytest.raises(
        DataError, match=rf"5 ordinary tokens[^\n]*beyond the {rows - 5} rows[^\n]*another model$"
    ):
        settled(folder_of(small, words_tokenizer(), tmp_path / "other"))


def test_rows_beyond_the_tokenizer_are_normal(tmp_path) -> None:
    tokenizer = words_tokenizer()
    model = tiny_model("llama", tokenizer, vocab_size=len(tokenizer) + 40)
    assert settled(folder_of(model, tokenizer, tmp_path / "own")).changes == []


def test_strange_defaults_of_sampling_are_left_out_and_said(tmp_path) -> None:
    tokenizer = words_tokenizer()
    strange = {
        **{"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.3},
        **{"min_length": 7, "bad_words_ids": [[5]], "max_new_tokens": 3, "suppress_tokens": [4]},
    }
    folder = folder_of(tiny_model("llama", tokenizer), tokenizer, tmp_path / "own", **strange)
    policy, told = brought(folder, tmp_path)
    [line] = told["changes"]
    assert line.startswith("left out of its generation config, for samples follow the parameters alone: ")
    assert sorted(re.findall(r"(\w+) (?:true|[\d.]+|\[)", line.split(": ")[1])) == sorted(strange)
    config = json.loads((tmp_path / "pretrained" / "generation_config.json").read_text())
    assert set(config) <= {
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "transformers_version",
        "_from_model_config",
    }
    ids = torch.tensor([[5, 6, 7]])
    out = policy.model.generate(ids, max_new_tokens=4, do_sample=False)
    with torch.no_grad():
        assert out[0, 3] == policy.model(ids).logits[0, -1].argmax()


def chat_folder(tmp_path: Path, template: str | None = CHATML, **more: Any) -> Path:
    tokenizer = bare_tokenizer(*MARKERS, pad=None)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.chat_template = template
    return folder_of(tiny_model("llama", tokenizer, **more), tokenizer, tmp_path / "own")


def test_the_token_that_ends_a_turn_stops_generation_everywhere(tmp_path) -> None:
    policy, told = brought(chat_folder(tmp_path), tmp_path)
    end = policy.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert told["stops"] == ["<eos>", "<|im_end|>"]
    assert policy.stops == sorted({end, policy.tokenizer.eos_token_id})
    assert told["changes"] == ["an answer ends at '<|im_end|>', '<eos>', as its generation config now says"]
    settings = json.loads((tmp_path / "pretrained" / "policy.json").read_text())
    assert {key: settings[key] for key in ("template", "arguments", "context")} == {
        "template": "auto",
        "arguments": {},
        "context": None,
    }


def test_a_template_can_be_a_file_plain_or_asked_for_and_none_there(tmp_path) -> None:
    folder = chat_folder(tmp_path, template="{{ messages[0].content }} bare")
    file = tmp_path / "mine.jinja"
    file.write_text(CHATML)
    own = settled(folder, template=str(file))
    assert (own.policy.settled.template, own.policy.tokenizer.chat_template) == ("chat", CHATML)
    assert own.changes[0] == "its chat template is that of mine.jinja"
    plain = settled(folder, template="plain")
    assert (plain.policy.settled.template, plain.policy.tokenizer.chat_template) == ("plain", None)
    assert plain.changes == ["its chat template is left out, for base.template is plain"]
    save_base(own, tmp_path / "pretrained")
    assert (tmp_path / "pretrained" / "chat_template.jinja").read_text() == CHATML
    bare = chat_folder(tmp_path, template=None)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match=r"no chat template; set base\.template to a file or to plain"):
        settled(bare, template="chat")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for m in messages %}{{ m.content }}", r"the chat template is no Jinja.*'for'"),
        ("{{ messages | nothing_like_it }}", r"No filter named 'nothing_like_it'"),
        ("{{ raise_exception('system turns only') }}", r"system turns only"),
        ("no message at all", r"^here"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(text, message, tmp_path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text(text)
    with pytest.raises(DataError) as refused:
        settled(chat_folder(tmp_path), template=str(file))
    assert "\n" not in str(refused.value)
    assert "set base.template to plain, or to a file with another template" in str(refused.value)
    if message != "^here":
        assert re.search(message, str(refused.value))
    with pytest.raises(DataError, match=r"base\.template: \S+nowhere\.jinja cannot be read: [^\n]*$"):
        settled(chat_folder(tmp_path), template=str(tmp_path / "nowhere.jinja"))


def test_stored_in_sixteen_bits_and_trained_in_thirty_two_is_not_written_anew(tmp_path) -> None:
    tokenizer = words_tokenizer()
    folder = folder_of(tiny_model("llama", tokenizer), tokenizer, tmp_path / "own", torch.bfloat16)
    policy, told = brought(folder, tmp_path)
    assert (tmp_path / "pretrained" / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()
    assert told["changes"] == ["the weights are stored as bfloat16 and read as float32"]
    assert (told["stored"], told["dtype"]) == ("bfloat16", "float32")
    assert policy.model.dtype == torch.float32
    assert json.loads((tmp_path / "pretrained" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_narrower_type_is_written_anew_in_half_the_bytes(tmp_path) -> None:
    tokenizer = words_tokenizer()
    folder = folder_of(tiny_model("llama", tokenizer), tokenizer, tmp_path / "own")
    base = settled(folder, torch.bfloat16)
    told = save_base(base, tmp_path / "pretrained")
    assert told["changes"] == ["the weights are stored as float32 and written as bfloat16"]
    weights = load_file(tmp_path / "pretrained" / "model.safetensors")
    assert {p.dtype for p in weights.values()} == {torch.bfloat16}
    assert stored_dtype(find("new", None, tmp_path / "pretrained")) == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.norm.weight"), r"1 tensors of LlamaForCausalLM are not in its weights"),
        (lambda w: w.update({"model.norm.weight": torch.zeros(3)}), r"it cannot be loaded: "),
        (
            lambda w: w.update({"model.norm.weight": torch.full((32,), torch.nan)}),
            r"LlamaForCausalLM: its logits are not finite, so its weights are broken",
        ),
    ],
)
def test_weights_that_do_not_fit_are_one_line(change, message, tmp_path) -> None:
    tokenizer = words_tokenizer()
    folder = folder_of(tiny_model("llama", tokenizer), tokenizer, tmp_path / "own")
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=rf"^here: {message}[^\n]*$"):
        settled(folder)


def test_tensors_that_are_never_read_are_said(tmp_path) -> None:
    tokenizer = words_tokenizer()
    folder = folder_of(tiny_model("llama", tokenizer), tokenizer, tmp_path / "own")
    weights = load_file(folder / "model.safetensors") | {"vision.weight": torch.zeros(3)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    base = settled(folder)
    assert base.changes == [
        "1 tensors that LlamaForCausalLM has no use for, such as vision.weight, are never read"
    ]


def test_attention_is_that_which_was_asked_for_and_kernels_for_gpus_wait(tmp_path) -> None:
    tokenizer = words_tokenizer()
    folder = folder_of(tiny_model("llama", tokenizer), tokenizer, tmp_path / "own")
    used = {name: settled(folder, attention=name).policy for name in ("eager", "flash_attention_2")}
    assert {name: p.model.config._attn_implementation for name, p in used.items()} == {
        "eager": "eager",
        "flash_attention_2": "sdpa",
    }
    assert used["flash_attention_2"].settled.attention == "flash_attention_2"


@pytest.mark.parametrize("broken", ["tokenizer.json", "tokenizer_config.json"])
def test_a_broken_or_absent_tokenizer_is_one_line(broken, tmp_path) -> None:
    tokenizer = words_tokenizer()
    folder = folder_of(tiny_model("llama", tokenizer), tokenizer, tmp_path / "own")
    (folder / broken).write_text("{")
    with pytest.raises(DataError, match=r"^here: [^\n]*$"):
        settled(folder)
    os.remove(folder / "tokenizer.json")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(DataError, match=r"^here: [^\n]*$"):
        settled(folder)


def test_no_eos_token_is_refused_with_what_to_set(tmp_path) -> None:
    tokenizer = words_tokenizer()
    model = tiny_model("llama", tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(
        DataError, match=r"^here: the tokenizer has no EOS token[^\n]*tokenizer_config\.json$"
    ):
        settled(folder_of(model, tokenizer, tmp_path / "own"))


def test_settings_are_kept_for_later_stages(tmp_path) -> None:
    template = CHATML + "{% if not thinking %} {% endif %}"
    folder = chat_folder(tmp_path, template=template)
    _, told = brought(folder, tmp_path, context=48, arguments={"thinking": True}, attention="eager")
    assert told["context"] == 48
    settings = json.loads((tmp_path / "pretrained" / "policy.json").read_text())
    assert settings.pop("hash") == told["hash"]
    assert settings == {
        **{"context": 48, "template": "auto", "arguments": {"thinking": True}},
        **{"dtype": "float32", "attention": "eager", "quantization": "none"},
    }
