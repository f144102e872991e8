"""LoRA adapters: on a model of any type, in a folder of their own, and the chain from there to their base."""

# pytest finds the fixture `base` by the name of an argument:
# ruff: noqa: F401, F811

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from small_base import DEMONSTRATIONS, PROMPTS, base
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig

from rlhf.data.errors import DataError
from rlhf.models.adapters import (
    adapters_of,
    add_adapters,
    load_adapters,
    merged,
    put_adapters,
    put_on,
    save_adapters,
)
from rlhf.models.policy import load_policy, save_model
from rlhf.models.reward_model import load_reward, load_reward_adapter, reward_from_policy, score
from rlhf.models.sampling import generate
from rlhf.models.template import as_row
from rlhf.settings import Lora

LORA = Lora(rank=4)
ROWS = [as_row(text) for text in PROMPTS[:8]]
IDS = torch.arange(3, 15).unsqueeze(0)


@torch.no_grad()
def trained(adapted: Any, seed: int = 0) -> Any:
    """Adapters that are not those they began as."""
    torch.manual_seed(seed)
    for p in adapted.parameters():
        if p.requires_grad:
            p.normal_(0, 0.2)
    return adapted


@pytest.fixture
def models(base: Path, tmp_path: Path) -> Path:
    """The folder of a run: `pretrained`, and `sft` with adapters on it."""
    shutil.copytree(base, tmp_path / "models/pretrained")
    policy = load_policy(tmp_path / "models/pretrained")
    policy.adapters = trained(add_adapters(policy.model, LORA))
    save_model(policy, tmp_path / "models/sft")
    return tmp_path / "models"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fresh_adapters_change_nothing_and_alone_learn_in_float32(base: Path, dtype: str) -> None:
    policy = load_policy(base, dtype)
    before = policy.model(IDS).logits
    adapted = add_adapters(policy.model, LORA)
    assert torch.equal(policy.model(IDS).logits, before)
    learning = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in learning.values()} == {torch.float32}
    assert all(".lora_" in name for name in learning)
    layers = {name.split(".lora_")[0].rsplit(".")[-1] for name in learning}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    trained(adapted)
    assert not torch.equal(policy.model(IDS).logits, before)
    with adapted.disable_adapter():
        assert torch.equal(policy.model(IDS).logits, before)


def test_targets_are_layers_of_the_body(base: Path) -> None:
    policy = load_policy(base)
    add_adapters(policy.model, Lora(rank=2, targets=["q_proj", "mlp.up_proj"], alpha=2))
    adapted = {name.split(".lora_")[0] for name, p in policy.model.named_parameters() if p.requires_grad}
    assert {name.split(".", 3)[3] for name in adapted} == {"self_attn.q_proj", "mlp.up_proj"}
    for name in ("lm_head", "embed_tokens", "query"):
        with pytest.raises(
            DataError, match=f"no linear layer '{name}' to adapt; LlamaForCausalLM has down_p"
        ):
            add_adapters(load_policy(base).model, Lora(targets=[name]))


def test_more_adapters_come_and_change_nothing_of_what_learns(models: Path) -> None:
    policy, other = load_policy(models / "sft"), load_policy(models / "pretrained")
    other.adapters = trained(add_adapters(other.model, LORA), seed=1)
    frozen = next(p for p in policy.adapters.parameters() if p.requires_grad)
    frozen.requires_grad_(False)
    before, learning = policy.model(IDS).logits, _learning(policy.adapters)
    put_adapters(policy.adapters, "reference", adapters_of(other.adapters))
    assert _learning(policy.adapters) == learning
    assert torch.equal(policy.model(IDS).logits, before)
    policy.adapters.set_adapter("reference")
    assert torch.equal(policy.model(IDS).logits, other.model(IDS).logits)
    kept = adapters_of(policy.adapters, "reference").weights
    assert all(torch.equal(p, kept[name]) for name, p in adapters_of(other.adapters).weights.items())


def test_adapters_of_another_model_are_refused(models: Path) -> None:
    policy, stored = load_policy(models / "pretrained"), load_adapters(models / "sft")
    assert stored is not None
    name = min(stored.weights)
    stored.weights[name] = stored.weights[name][:, :-1]
    with pytest.raises(
        DataError, match="these adapters are of another model: 1 weights do not fit, first mod"
    ):
        put_on(policy.model, stored)
    assert load_adapters(models / "pretrained") is None


def test_merging_is_in_float32_and_leaves_the_held_model(models: Path) -> None:
    policy = load_policy(models / "sft", "bfloat16")
    before = policy.model(IDS).logits
    whole = merged(policy)
    assert whole.dtype == torch.float32
    assert not any("lora" in name for name, _ in whole.named_parameters())
    assert torch.equal(policy.model(IDS).logits, before)
    exact = load_policy(models / "sft").model(IDS).logits
    torch.testing.assert_close(whole(IDS).logits, exact, atol=0.05, rtol=0.05)
    whole = merged(load_policy(models / "sft"))
    torch.testing.assert_close(whole(IDS).logits, exact, atol=1e-5, rtol=1e-4)


# ---- the chain ----


def test_a_folder_of_adapters_is_the_policy_wherever_all_models_move(models: Path, tmp_path: Path) -> None:
    policy = load_policy(models / "pretrained")
    policy.adapters = trained(add_adapters(policy.model, LORA))
    expected = policy.model(IDS).logits
    assert sorted(path.name for path in (models / "sft").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "generation_config.json",
        "policy.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    settled = json.loads((models / "sft/policy.json").read_text())
    assert settled["base"]["path"] == "../pretrained"
    assert settled["base"]["hash"] == json.loads((models / "pretrained/policy.json").read_text())["hash"]
    models.rename(tmp_path / "moved")
    loaded = load_policy(tmp_path / "moved/sft")
    assert torch.equal(loaded.model(IDS).logits, expected)
    assert loaded.stops == policy.stops
    assert loaded.context == policy.context
    save_model(loaded, tmp_path / "moved/again")
    for name in ("adapter_model.safetensors", "adapter_config.json", "policy.json"):
        assert (tmp_path / "moved/again" / name).read_bytes() == (tmp_path / "moved/sft" / name).read_bytes()


def test_other_programs_load_the_folder_by_peft_alone(models: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(models / "pretrained")
    theirs = PeftModel.from_pretrained(theirs, models / "sft")
    ours = load_policy(models / "sft").model(IDS).logits
    torch.testing.assert_close(theirs(IDS).logits, ours, atol=1e-5, rtol=1e-5)


def test_adapters_remember_where_their_policy_stops(models: Path) -> None:
    policy = load_policy(models / "sft")
    policy.model.generation_config = GenerationConfig(eos_token_id=[1, 5])
    save_model(policy, models / "ppo")
    assert load_policy(models / "ppo").stops == [1, 5]
    assert load_policy(models / "sft").stops == [1]


def test_adapters_without_their_base_or_with_another_one_are_refused(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "sft", tmp_path / "alone/sft")
    with pytest.raises(
        DataError, match=r"alone/sft: the model that these adapters sit on is missing: .*/alon"
    ):
        load_policy(tmp_path / "alone/sft")
    policy = load_policy(models / "pretrained")
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(1.01)
    save_model(policy, models / "pretrained")
    with pytest.raises(
        DataError, match=r"these adapters sit on a model of hash .* train them again"
    ) as error:
        load_policy(models / "sft")
    assert "\n" not in str(error.value)
    (models / "sft/policy.json").unlink()
    with pytest.raises(DataError, match=r"adapters without policy\.json, which names their base"):
        load_policy(models / "sft")
    (models / "sft/adapter_model.safetensors").unlink()
    with pytest.raises(DataError, match=r"adapter_model\.safetensors is missing; only adapters"):
        load_policy(models / "sft")


@pytest.mark.parametrize("loaded", ["pretrained", "sft"])
def test_weights_swapped_under_an_old_policy_json_are_refused(models: Path, loaded: str) -> None:
    weights = load_file(models / "pretrained/model.safetensors")
    weights["model.norm.weight"] *= 1.01
    save_file(weights, models / "pretrained/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        DataError, match=r"pretrained: its weights have the hash \w+, and policy.json is of"
    ) as error:
        load_policy(models / loaded)
    assert "\n" not in str(error.value)


def test_adapters_on_a_model_in_no_folder_cannot_be_saved(base: Path, tmp_path: Path) -> None:
    policy = load_policy(base)
    policy.base, policy.adapters = None, add_adapters(policy.model, LORA)
    with pytest.raises(DataError, match="this one is in no folder: save it first"):
        save_model(policy, tmp_path / "sft")
    assert not (tmp_path / "sft").exists()


# ---- reward models ----


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_reward_model_begins_as_sft_with_its_adapters_and_a_head(models: Path, dtype: str) -> None:
    settled = json.loads((models / "sft/policy.json").read_text()) | {"dtype": dtype}
    (models / "sft/policy.json").write_text(json.dumps(settled))
    policy, reward = load_policy(models / "sft"), reward_from_policy(models / "sft", seed=0)
    states = policy.model.model(IDS).last_hidden_state
    assert torch.equal(reward.model.base_model(IDS).last_hidden_state, states)
    assert reward.model.score.weight.dtype == torch.float32
    learning = {name for name, p in reward.model.named_parameters() if p.requires_grad}
    assert {name for name in learning if "lora" not in name} == {"score.weight"}
    assert {name for name, p in policy.model.named_parameters() if p.requires_grad} == learning - {
        "score.weight"
    }

    trained(reward.adapters)
    reward.model.config.reward_shift = 0.25
    scores = score(reward, ROWS, [" red."] * 8)
    assert len(set(scores)) == 8
    save_model(reward, models / "reward")
    loaded = load_reward(models / "reward")
    assert score(loaded, ROWS, [" red."] * 8) == scores
    adapters, head, shift = load_reward_adapter(models / "reward")
    assert torch.equal(head, reward.model.score.weight)
    assert shift == 0.25
    put_adapters(policy.adapters, "reward", adapters)
    policy.adapters.set_adapter("reward")
    assert torch.equal(
        policy.model.model(IDS).last_hidden_state, loaded.model.base_model(IDS).last_hidden_state
    )
    whole = merged(loaded)
    assert torch.equal(whole.score.weight, head)
    with pytest.raises(DataError, match="no adapters of a reward model here"):
        load_reward_adapter(models / "sft")


def test_other_programs_load_a_reward_model_with_its_head(models: Path) -> None:
    reward = reward_from_policy(models / "sft", seed=0)
    trained(reward.adapters)
    save_model(reward, models / "reward")
    theirs = AutoModelForSequenceClassification.from_pretrained(models / "pretrained", num_labels=1)
    theirs = PeftModel.from_pretrained(theirs, models / "reward")
    states = reward.model.base_model(IDS).last_hidden_state
    torch.testing.assert_close(theirs(IDS).logits[0], reward.model.score(states)[0, -1])


def _learning(model: Any) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}
