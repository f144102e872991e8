"""Base models of many architectures and tokenizers are settled when they are loaded, or refused in a line."""

from __future__ import annotations

import copy
import inspect
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from tiny_models import MODELS, tiny_model
from tiny_ppo import PROMPTS, WORDS, tiny, trainer_of, words_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl.trainer.utils import add_fused_lm_head

from rlhf.compute import deterministic
from rlhf.data.errors import DataError
from rlhf.data.rankings import pairs
from rlhf.models.batches import batch_of
from rlhf.models.logprobs import check_head, response_logprobs
from rlhf.models.packing import check_scores
from rlhf.models.policy import Policy, load_policy, save_model, true_copy
from rlhf.models.reward_model import RewardModel, encode, reward_from_policy, score
from rlhf.models.sampling import check_sampling, generate
from rlhf.models.settled import UNSETTLED
from rlhf.models.template import as_row
from rlhf.rl.trainer import PPOTrainer
from rlhf.training.checkpoints import last_checkpoint
from rlhf.training.pretrain import pretrain
from rlhf.training.reward import RankingTrainer, train_reward
from rlhf.training.sft import sft

WINDOWED = ["mistral", "phi3", "gemma2", "gemma3_text", "gpt_oss"]
EXPERTS = ["qwen3_moe", "mixtral", "gpt_oss", "olmoe"]
STATE_SPACE = ["mamba", "falcon_h1"]
DEMONSTRATIONS = [{"prompt": p, "completion": f" {p.split()[0]}", "split": "train"} for p in PROMPTS]
LONG = " ".join(PROMPTS[:5])  # longer than the windows of tiny_models
RANKINGS = [
    {"prompt": LONG + p, "completions": [" red", " one two", " yes no"], "ranking": [1, 3, 2]}
    for p in PROMPTS[:4]
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return words_tokenizer()


def saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    held: Any = SimpleNamespace(model=model, tokenizer=tokenizer, settled=UNSETTLED, adapters=None)
    save_model(held, folder / "policy")  # no check yet
    return folder / "policy"


def fine_tune(policy: Policy, folder: Path, **more: Any) -> list[dict[str, float]]:
    settings = {"epochs": 0.25, "batch_size": 4, "learning_rate": 1e-3, "save_every": 2} | more
    return sft(policy, DEMONSTRATIONS, checkpoints=folder / "sft", seed=0, **settings)


def rank(reward: Any, folder: Path, **more: Any) -> list[dict[str, float]]:
    settings = {"epochs": 1, "batch_size": 2, "learning_rate": 1e-3, "save_every": 1} | more
    return train_reward(reward, RANKINGS, checkpoints=folder / "reward", seed=0, **settings)


# ---- rankings, packed or not ----


@pytest.mark.parametrize("kind", ["llama", "bloom", "mistral", "gemma3_text", "gpt_oss"])
def test_the_loss_of_rankings_is_that_of_the_scores_alone(kind, tokenizer, tmp_path, monkeypatch) -> None:
    """Also with windows shorter than the prompt, which would read packed rankings in another way."""
    deterministic(0, 1)
    reward = reward_from_policy(saved(tiny_model(kind, tokenizer), tokenizer, tmp_path), 0)
    expected = []
    for row in RANKINGS:
        s = [score(reward, [row], [text])[0] for text in row["completions"]]
        expected.append(np.mean([math.log1p(math.exp(s[b] - s[a])) for a, b in pairs(row["ranking"])]))
    losses = []
    original = RankingTrainer.compute_loss

    def spy(self, *args, **kwargs):
        losses.append(original(self, *args, **kwargs))
        return losses[-1]

    monkeypatch.setattr(RankingTrainer, "compute_loss", spy)
    rank(reward, tmp_path, batch_size=4)
    assert losses[0].item() == pytest.approx(np.mean(expected), abs=1e-4)


@pytest.mark.parametrize("kind", WINDOWED)
def test_packed_scores_are_held_against_plain_ones(kind, tokenizer, tmp_path) -> None:
    """A window matters once a sequence no longer fits into it."""
    reward = reward_from_policy(saved(tiny_model(kind, tokenizer), tokenizer, tmp_path), 0)
    rows = [encode(reward, [r] * 3, r["completions"]) for r in RANKINGS[:2]]
    assert not check_scores(reward.model, rows, tokenizer.pad_token_id)
    short = [encode(reward, [as_row("")] * 3, r["completions"]) for r in RANKINGS[:2]]
    assert max(len(row) for example in short for row in example) < 6
    assert check_scores(reward.model, short, tokenizer.pad_token_id)


# ---- mixtures of experts ----


@pytest.mark.parametrize("kind", ["llama", *EXPERTS])
def test_log_probabilities_are_those_of_a_plain_forward(kind, tokenizer) -> None:
    model = tiny_model(kind, tokenizer)
    check_head(model)
    rows = tokenizer([LONG, PROMPTS[3] + " yes no red"])["input_ids"]
    with torch.no_grad():
        ours, _ = response_logprobs(model, batch_of(rows, [2, 2], tokenizer.pad_token_id), 1.0)
        plain = [
            model(input_ids=torch.tensor([row])).logits[0, 1:-1].log_softmax(-1)[range(len(row) - 2), row[2:]]
            for row in rows
        ]
    torch.testing.assert_close(ours, torch.cat(plain), atol=1e-4, rtol=1e-4)


# ---- sampling ----


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind not in STATE_SPACE])
def test_greedy_answers_are_those_of_plain_forwards(kind, tokenizer) -> None:
    policy = Policy(tiny_model(kind, tokenizer), tokenizer)
    prompts = [PROMPTS[3], LONG, PROMPTS[5] + " " + PROMPTS[9]]
    answers = generate(policy, [as_row(text) for text in prompts], temperature=0, max_new_tokens=5, seed=0)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        for _ in range(5):
            with torch.no_grad():
                ids.append(policy.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item())
            if ids[-1] == tokenizer.eos_token_id:
                break
        new = ids[len(tokenizer(prompt)["input_ids"]) :]
        assert answer == tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("kind", STATE_SPACE)
def test_a_model_that_cannot_be_sampled_with_a_cache_is_refused_in_one_line(kind, tokenizer) -> None:
    policy = Policy(tiny_model(kind, tokenizer), tokenizer)
    with pytest.raises(DataError, match=r"^\w+ForCausalLM.* cannot be sampled[^\n]*$"):
        generate(policy, [as_row(text) for text in PROMPTS[:3]], temperature=1.0, max_new_tokens=4, seed=0)


class Forgetful(LlamaForCausalLM):
    """Reads only the newest token, as if there had been none before."""

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, **kwargs):
        return super().forward(input_ids=input_ids, **kwargs)


def test_a_model_that_ignores_its_cache_is_refused_by_ppo_before_any_training(tokenizer, tmp_path) -> None:
    policy = tiny(tokenizer, Forgetful)
    with pytest.raises(DataError, match="Forgetful: sampling with a cache gives other logits"):
        check_sampling(policy)
    whole = trainer_of(tokenizer, tmp_path)
    with pytest.raises(DataError, match="Forgetful: sampling with a cache gives other logits"):
        PPOTrainer(policy, lambda p, c: [0.0] * len(c), whole.args, PROMPTS, tokenizer)


# ---- pad tokens and contexts ----


def bare_tokenizer(*reserved: str, pad: str | None = None) -> Any:
    """Words, EOS and reserved tokens: many base models have no pad token, or pad with EOS."""
    by_words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    by_words.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_next")
    by_words.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(special_tokens=["<eos>", "<unk>", *reserved])
    by_words.train_from_iterator([f"{p} {w}" for p in PROMPTS for w in WORDS.split()], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=by_words, eos_token="<eos>", unk_token="<unk>", pad_token=pad
    )


@pytest.mark.parametrize(
    ("reserved", "pad", "spare", "expected"),
    [
        (("<|extra|>", "<|reserved_3|>", "<|right_pad_id|>"), None, 0, "<|right_pad_id|>"),
        (("<|extra|>", "<|reserved_3|>"), "<eos>", 0, "<|reserved_3|>"),
        ((), None, 4, "<pad>"),  # the embeddings have rows that no token has
        ((), "<eos>", 0, "<pad>"),  # they have to grow
        ((), "<|other|>", 0, "<pad>"),  # a name new to the vocabulary has an id behind the embeddings
    ],
)
def test_the_pad_token_is_settled_when_a_policy_is_loaded(
    reserved, pad, spare, expected, tmp_path, capsys
) -> None:
    tokenizer = bare_tokenizer(*reserved, pad=pad)
    rows = len(tokenizer) + spare - (pad == "<|other|>")
    model = tiny_model("llama", tokenizer, vocab_size=rows, pad_token_id=None)
    before = model(torch.tensor([[5, 6, 7]])).logits
    policy = load_policy(saved(model, tokenizer, tmp_path))
    assert capsys.readouterr().out.count(f"it pads with '{expected}' now") == 1
    assert policy.tokenizer.pad_token == expected
    pad_id = policy.tokenizer.pad_token_id
    assert pad_id == policy.model.config.pad_token_id != policy.tokenizer.eos_token_id
    assert len(policy.model.get_input_embeddings().weight) == max(rows, pad_id + 1)
    after = policy.model(torch.tensor([[5, 6, 7]])).logits
    torch.testing.assert_close(after[..., : before.shape[-1]], before)
    assert (after[..., before.shape[-1] :] - before.mean(-1, keepdim=True)).abs().sum() < 1e-4


def test_a_policy_whose_pad_token_was_its_eos_goes_through_all_trainings(tmp_path, capsys) -> None:
    deterministic(0, 1)
    tokenizer = bare_tokenizer(pad="<eos>")
    policy = load_policy(saved(tiny_model("llama", tokenizer), tokenizer, tmp_path))
    fine_tune(policy, tmp_path)
    folder = saved(policy.model, policy.tokenizer, tmp_path / "tuned")
    reward = reward_from_policy(folder, 0)
    rank(reward, tmp_path)
    again = load_policy(folder)
    args = trainer_of(words_tokenizer(), tmp_path / "ppo", num_updates=1).args
    PPOTrainer(again.model, reward.model, args, PROMPTS, again.tokenizer).train()
    pads = {again.tokenizer.pad_token_id, reward.tokenizer.pad_token_id, policy.tokenizer.pad_token_id}
    assert pads == {len(tokenizer)}
    assert capsys.readouterr().out.count("it pads with") == 1


def test_a_policy_without_an_eos_token_is_refused_when_it_is_loaded(tokenizer, tmp_path) -> None:
    bare = words_tokenizer()
    bare.eos_token = None
    with pytest.raises(DataError, match=r"the tokenizer has no EOS token[^\n]*set eos_token in its"):
        load_policy(saved(tiny_model("llama", tokenizer), bare, tmp_path))


def test_stop_tokens_are_settled_once_and_ppo_stops_where_generation_does(tokenizer, tmp_path) -> None:
    model = tiny_model("llama", tokenizer)
    ended_by = [tokenizer(word)["input_ids"][0] for word in (" yes", " no")]
    model.generation_config.eos_token_id = [ended_by[0]]
    policy = load_policy(saved(model, tokenizer, tmp_path))
    assert policy.stops == sorted([tokenizer.eos_token_id, ended_by[0]])
    args = trainer_of(tokenizer, tmp_path / "ppo", stop_tokens=[" no"]).args
    score_all_alike = lambda prompts, completions: [0.0] * len(completions)  # noqa: E731
    trainer = PPOTrainer(policy.model, score_all_alike, args, PROMPTS, tokenizer)
    assert trainer.policy.stops == sorted([tokenizer.eos_token_id, *ended_by])
    rollout = trainer.roll_out(0)
    ends = {row[-1] for row in rollout.rows if len(row) < max(rollout.lengths)}
    assert ends
    assert ends <= set(trainer.policy.stops)
    assert Policy(trainer.trained_policy(), tokenizer).stops == trainer.policy.stops


def test_a_model_whose_positions_know_no_end_trains_and_samples(tokenizer, tmp_path) -> None:
    deterministic(0, 1)
    policy = load_policy(saved(tiny_model("bloom", tokenizer), tokenizer, tmp_path))
    assert policy.context > 1_000_000
    assert Policy(tiny_model("llama", tokenizer), tokenizer).context == 64
    fine_tune(policy, tmp_path)
    assert (
        len(
            generate(
                policy, [as_row(text) for text in PROMPTS[:3]], temperature=1.0, max_new_tokens=4, seed=0
            )
        )
        == 3
    )
    rates = {"learning_rate": 1e-3, "muon_learning_rate": 0.01}
    steps = {"steps": 2, "batch_size": 4, "save_every": 2, "seed": 0}
    pretrain(policy, PROMPTS, checkpoints=tmp_path / "base", **steps, **rates)
    rank(reward_from_policy(saved(policy.model, tokenizer, tmp_path / "tuned"), 0), tmp_path)


def test_a_reward_model_that_the_library_does_not_have_is_refused_in_one_line(tokenizer, tmp_path) -> None:
    with pytest.raises(DataError, match=r"no sequence classification for olmoe models, .*; take a base of"):
        reward_from_policy(saved(tiny_model("olmoe", tokenizer), tokenizer, tmp_path), 0)


# ---- what is not finite ----

TOO_HIGH = 1e30


def too_high_pretraining(tokenizer: Any, folder: Path) -> None:
    settings = {"steps": 9, "batch_size": 4, "learning_rate": TOO_HIGH, "muon_learning_rate": 1e30}
    policy = Policy(tiny(tokenizer), tokenizer)
    pretrain(policy, PROMPTS, checkpoints=folder, seed=0, save_every=1, **settings)


def too_high_sft(tokenizer: Any, folder: Path) -> None:
    settings = {"epochs": 1, "batch_size": 8, "learning_rate": TOO_HIGH, "save_every": 1}
    sft(Policy(tiny(tokenizer), tokenizer), DEMONSTRATIONS, checkpoints=folder, seed=0, **settings)


def too_high_reward(tokenizer: Any, folder: Path) -> None:
    reward = RewardModel(tiny(tokenizer, LlamaForSequenceClassification, num_labels=1), tokenizer)
    rows = [row | {"prompt": row["prompt"][-8:]} for row in RANKINGS]
    settings = {"epochs": 6, "batch_size": 2, "learning_rate": TOO_HIGH, "save_every": 1}
    train_reward(reward, rows, checkpoints=folder, seed=0, **settings)


def too_high_ppo(tokenizer: Any, folder: Path) -> None:
    steps = {"num_updates": 6, "num_ppo_epochs": 1, "num_mini_batches": 1}  # a checkpoint after each
    trainer_of(tokenizer, folder, learning_rate=TOO_HIGH, **steps).train()


@pytest.mark.parametrize("training", [too_high_pretraining, too_high_sft, too_high_reward, too_high_ppo])
def test_a_training_stops_where_it_is_not_finite_and_names_the_checkpoint(
    training, tokenizer, tmp_path
) -> None:
    deterministic(0, 1)
    with pytest.raises(DataError) as stopped:
        training(tokenizer, tmp_path)
    what, rest = str(stopped.value).split(": ", 1)
    cause, back = rest.split("; ")
    assert re.fullmatch(
        r"(the loss|the gradient's norm|a weight) is (nan|inf) at step \d+, .* rate \S+", what
    )
    assert "learning rate is probably too high" in cause
    assert re.fullmatch(r"the checkpoint to go back to is \S+/checkpoint-\d+", back)
    for weights in last_checkpoint(tmp_path).glob("*.safetensors"):  # type: ignore[union-attr]
        assert all(torch.isfinite(p).all() for p in load_file(weights).values())


def test_a_gradient_that_is_no_number_never_reaches_the_weights(tokenizer, tmp_path) -> None:
    deterministic(0, 1)
    policy = Policy(tiny(tokenizer), tokenizer)
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    policy.model.model.norm.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(DataError, match=r"the gradient's norm is nan at step 1, .*no checkpoint"):
        fine_tune(policy, tmp_path)
    assert all(torch.equal(p, before[name]) for name, p in policy.model.named_parameters())


def test_weights_that_are_broken_from_the_start_are_named(tokenizer, tmp_path) -> None:
    policy = Policy(tiny(tokenizer), tokenizer)
    with torch.no_grad():
        policy.model.model.norm.weight[3] = math.nan
    with pytest.raises(DataError, match=r"that the training starts from are not finite \(\S*norm.weight\)"):
        fine_tune(policy, tmp_path)


@pytest.mark.parametrize("check", [check_head, check_sampling])
def test_a_model_withbroken_weights_is_said_to_have_them(check, tokenizer) -> None:
    model = tiny(tokenizer)
    with torch.no_grad():
        model.model.norm.weight[3] = math.inf
    with pytest.raises(DataError, match="its logits are not finite, so its weights are broken"):
        check(model)


# ---- LoRA beside frozen layers ----


def learning_in(layer: Any) -> list[str]:
    return [name for name, p in layer.named_parameters() if p.requires_grad]


def test_adapters_of_frozen_layers_do_not_learn(tokenizer, tmp_path) -> None:
    lora = LoraConfig(r=2, target_modules="all-linear", exclude_modules=["k_proj"])
    trainer = trainer_of(tokenizer, tmp_path, more={"peft_config": lora, "value": None}, freeze_layers=1)
    frozen, free = trainer.networks.policy.model.layers
    before = {name.replace(".base_layer", ""): p.detach().clone() for name, p in frozen.named_parameters()}
    trainer.train()
    assert learning_in(frozen) == []
    assert any("q_proj" in name for name in learning_in(free))
    assert not any("k_proj" in name for name in learning_in(free))
    assert not learning_in(trainer.networks.policy.get_input_embeddings())
    layer = trainer.trained_policy().model.layers[0]
    assert dict(layer.named_parameters()).keys() == {name for name in before if "lora_" not in name}
    assert all(torch.equal(p, before[name]) for name, p in layer.named_parameters())


@pytest.mark.parametrize("config", [{"modules_to_save": ["embed_tokens"]}, {}])
def test_frozen_layers_that_leave_nothing_to_learn_are_refused(config, tokenizer, tmp_path) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj"], **config)
    with pytest.raises(DataError, match="the adapters and freeze_layers 2 leave nothing to learn"):
        trainer_of(tokenizer, tmp_path, more={"peft_config": lora, "value": None}, freeze_layers=2)


# ---- copies ----


def answers_alike(model: Any, other: Any) -> bool:
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        return torch.equal(model(ids).logits, other(ids).logits)


def shifted(model: Any) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.rand_like(p))


def test_a_copy_after_fine_tuning_has_its_own_weights(tokenizer, tmp_path) -> None:
    policy = Policy(tiny(tokenizer), tokenizer)
    fine_tune(policy, tmp_path)
    copied = copy.deepcopy(policy.model)
    assert answers_alike(policy.model, copied)
    shifted(policy.model)
    assert not answers_alike(policy.model, copied)


def test_a_reference_is_a_true_copy_of_a_policy_that_another_trainer_has_patched(tokenizer, tmp_path) -> None:
    policy = tiny(tokenizer)
    add_fused_lm_head(policy)
    borrowed = copy.deepcopy(policy)  # what the user of a notebook does
    args = trainer_of(tokenizer, tmp_path).args
    score_all_alike = lambda prompts, completions: [0.0] * len(completions)  # noqa: E731
    own = PPOTrainer(policy, score_all_alike, args, PROMPTS, tokenizer).roles.reference
    other = PPOTrainer(policy, score_all_alike, args, PROMPTS, tokenizer, reference=borrowed).roles.reference
    for reference in (own, other, true_copy(policy)):
        assert answers_alike(policy, reference)
    shifted(policy)
    for reference in (own, other):
        assert not answers_alike(policy, reference)
    assert "labels" in inspect.signature(policy.forward).parameters  # the policy keeps what it had
