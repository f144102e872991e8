"""Settings, rewards and checkpoints of PPO that end in one line."""

# pytest finds the fixture `tokenizer` by the name of an argument:
# ruff: noqa: F401, F811

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_ppo import LORA, PROMPTS, WORDS, ones, tiny, tokenizer, trainer_of
from transformers import LlamaForSequenceClassification

from rlhf.models.sampling import sample
from rlhf.models.scratch import train_tokenizer
from rlhf.rl.trainer import PPOConfig, PPOTrainer
from rlhf.training.loop import train


@pytest.mark.parametrize(
    ("more", "settings", "message"),
    [
        ({"prompts": []}, {}, "no prompts"),
        (
            {"prompts": [" ".join(["red"] * 40)]},
            {},
            "prompt 0 has 40 tokens; .* leaves room for 24",
        ),
        ({"prompts": [""]}, {}, "prompt 0 has no tokens"),
        ({}, {"ptx_coef": 1.0}, "no ptx_texts"),
        ({}, {"stop_tokens": ["red green"]}, "the stop token 'red green' is 2 tokens"),
        ({}, {"reward_weights": [1.0, 2.0]}, "1 rewards and 2 reward_weights"),
        ({}, {"freeze_layers": 7}, "the model has 2 layers"),
        ({}, {"num_updates": 0}, "num_updates is 0"),
        ({}, {"missing_eos_rule": "drop"}, "use replace, add"),
        ({}, {"precision": "fp8"}, "use auto, fp32, bf16"),
        ({}, {"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({}, {"kl_target": 0.0}, "kl_target is 0.0; it must be above 0"),
        ({}, {"kl_coef": -0.1}, "kl_coef is -0.1; it must be at least 0"),
        ({}, {"max_prompt_length": 0}, "max_prompt_length is 0; it must be at least 1"),
        ({"prompts": "red blue:"}, {}, "the prompts are one text"),
        ({"prompts": ["red:", {"text": "red blue:"}]}, {}, "prompt 1 is a dict; .* one column"),
        ({"prompts": [[5, 6, 7]]}, {}, "prompt 0 is a list; prompts are texts, lists of messages or rows"),
    ],
)
def test_bad_settings_are_refused_in_one_line(tokenizer, tmp_path: Path, more, settings, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        trainer_of(tokenizer, tmp_path, more=more, **settings)
    assert "\n" not in str(caught.value)


def test_a_reward_on_another_vocabulary_is_refused(tokenizer, tmp_path: Path) -> None:
    other = train_tokenizer(WORDS.split(), "bpe", 300)
    with pytest.raises(ValueError, match="give a reward with another tokenizer as RewardModel"):
        trainer_of(tokenizer, tmp_path, reward=tiny(other, LlamaForSequenceClassification, num_labels=1))


def test_long_prompts_lose_their_start_if_asked_to(tokenizer, tmp_path: Path) -> None:
    text = " ".join(["red"] * 40) + " blue:"
    trainer = trainer_of(tokenizer, tmp_path, more={"prompts": [text] * 16}, max_prompt_length=5)
    rollout = trainer.roll_out(0)
    assert rollout.starts == [5] * 16
    assert tokenizer.decode(rollout.rows[0][:5]) == " red red red blue:"


def test_a_reward_that_is_not_a_number_names_the_checkpoint_to_go_back_to(tokenizer, tmp_path: Path) -> None:
    calls = []

    def breaks(prompts, completions):
        calls.append(1)
        return [math.nan if len(calls) == 3 else float(len(text)) for text in completions]

    with pytest.raises(
        ValueError, match=r"update 2: the reward breaks is nan .* to go back to is .*checkpoint-8"
    ):
        train(trainer_of(tokenizer, tmp_path, reward=breaks, num_updates=4))


def test_one_score_for_all_responses_ends_the_training_at_once(tokenizer, tmp_path: Path) -> None:
    line = r"update 1: all responses have the same score, 0, so there is nothing to learn: .* no checkpoint"
    dull = tiny(tokenizer, LlamaForSequenceClassification, num_labels=1)
    torch.nn.init.zeros_(dull.score.weight)
    with pytest.raises(ValueError, match=line):
        train(trainer_of(tokenizer, tmp_path / "model", reward=dull, missing_eos=0.0))
    train(trainer_of(tokenizer, tmp_path / "function", reward=ones, num_updates=1))  # it may be a rare one


@pytest.mark.parametrize(
    ("before", "line"),
    [
        (
            0,
            r"update 1: 100% of the responses are empty before anything is learnt, .* there is no checkpoint",
        ),
        (
            1,
            r"update 2: 100% of the responses are empty, so the reward prefers silence: raise kl_coef",
        ),
    ],
)
def test_responses_without_a_word_end_the_training(
    before: int, line: str, tokenizer, tmp_path: Path, monkeypatch
) -> None:
    trainer, asked = trainer_of(tokenizer, tmp_path), []

    def silent(model, prompts, *, stop, **more):
        asked.append(1)
        return (
            sample(model, prompts, stop=stop, **more) if len(asked) <= before else [stop[:1]] * len(prompts)
        )

    monkeypatch.setattr("rlhf.rl.rollouts.sample", silent)
    with pytest.raises(ValueError, match=line) as told:
        train(trainer)
    assert str(told.value).endswith(f"the checkpoint to go back to is {tmp_path}/checkpoint-4") == bool(
        before
    )


def test_a_policy_that_runs_away_from_its_reference_ends_the_training(
    tokenizer, tmp_path: Path, monkeypatch
) -> None:
    trainer = trainer_of(tokenizer, tmp_path)
    near = trainer.roles.reference_logprobs

    def far(*batch):  # from the second update on
        return near(*batch) - 6.0 * (trainer.state.global_step > 0)

    monkeypatch.setattr(trainer.roles, "reference_logprobs", far)
    line = (
        r"update 2: the policy has run away from its reference, with a KL of \d+ nats a response, [56]\.\d a "
        r"token: raise kl_coef \(0\.05 now\), .*; the checkpoint to go back to is .*/checkpoint-4$"
    )
    with pytest.raises(ValueError, match=line):
        train(trainer)


def test_what_is_no_plain_language_model_is_refused(tokenizer, tmp_path: Path) -> None:
    args = PPOConfig(str(tmp_path), use_cpu=True, report_to="none")
    scorer = tiny(tokenizer, LlamaForSequenceClassification, num_labels=1)
    for policy in ("models/sft", scorer, get_peft_model(scorer, LoraConfig(**LORA))):
        with pytest.raises(ValueError, match="it must be a causal language model of transformers"):
            PPOTrainer(policy, ones, args, PROMPTS, tokenizer)
    policy = tiny(tokenizer)
    with pytest.raises(ValueError, match="the reference is the policy itself"):
        PPOTrainer(policy, ones, args, PROMPTS, tokenizer, reference=policy)
    scorer = tiny(tokenizer, LlamaForSequenceClassification, num_labels=1)
    with pytest.raises(ValueError, match="the value network is the reward model itself"):
        PPOTrainer(policy, scorer, args, PROMPTS, tokenizer, value=scorer)


@pytest.mark.parametrize("returned", [None, 1.0, ["good"] * 16])
def test_a_reward_function_that_gives_no_numbers_is_named(tokenizer, tmp_path: Path, returned) -> None:
    def careless(prompts, completions):
        return returned

    with pytest.raises(ValueError, match=r"the reward careless gave .* one number a completion"):
        trainer_of(tokenizer, tmp_path, reward=careless).roll_out(0)


def test_a_checkpoint_of_other_networks_is_refused(tokenizer, tmp_path: Path) -> None:
    train(trainer_of(tokenizer, tmp_path))
    with pytest.raises(ValueError, match=r"checkpoint-8 is of other networks .* another output_dir"):
        train(trainer_of(tokenizer, tmp_path, num_updates=3, more={"value": None}))
