"""What each option of PPO promises."""

# pytest finds the fixture `tokenizer` by the name of an argument:
# ruff: noqa: F401, F811

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from tiny_ppo import (
    LORA,
    PROMPTS,
    WORDS,
    Stop,
    gradient_of,
    ones,
    state,
    tiny,
    tokenizer,
    trainer_of,
    updates,
)
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForSequenceClassification, TrainerCallback

from rlhf.data.errors import DataError
from rlhf.models.adapters import Adapters
from rlhf.models.attention import use_short_attention
from rlhf.models.batches import batch_of
from rlhf.models.logprobs import response_logprobs, sequence_scores
from rlhf.models.reward_model import RewardModel, score
from rlhf.models.scratch import train_tokenizer
from rlhf.models.template import as_row
from rlhf.rl import reward_functions
from rlhf.rl.advantages import adapted_kl_coef, whiten
from rlhf.rl.metrics import UpdateSums
from rlhf.rl.rewards import model_scores, named_rewards
from rlhf.rl.trainer import PPOConfig, RewardAdapter
from rlhf.training.loop import train

# ---- details of the papers ----


def test_in_the_warm_up_the_value_network_alone_learns(tokenizer, tmp_path: Path) -> None:
    trainer = trainer_of(tokenizer, tmp_path, num_updates=9, value_warmup=8, learning_rate=1e-2)
    before, states = state(trainer), []

    class Watch(TrainerCallback):
        def on_step_end(self, args, now, control, **kwargs):
            if now.global_step % args.steps_per_update == 0:
                states.append(state(trainer))

    trainer.add_callback(Watch())
    rows = updates(train(trainer))
    for name, start in before.items():
        moved = [not torch.equal(start, now[name]) for now in states]
        assert moved == ([True] * 9 if name.startswith("value.") else [False] * 8 + [True])
    assert [row["val/ratio"] for row in rows[:8]] == pytest.approx([1.0] * 8)
    assert [row["objective/kl"] for row in rows] == [0.0] * 9  # of the rollout, before its update
    explained = [row["val/explained_variance"] for row in rows]
    assert np.mean(explained[-3:]) > np.mean(explained[:3]) + 1


def test_in_bfloat16_a_weight_is_cast_once_a_step_and_a_frozen_one_once(tokenizer, tmp_path: Path) -> None:
    trainer = trainer_of(tokenizer, tmp_path, precision="bf16", micro_batch_tokens=64, num_mini_batches=1)
    weights = {
        name: model.model.layers[0].mlp.up_proj.weight
        for name, model in (("policy", trainer.networks.policy), ("reference", trainer.roles.reference))
    }
    casts = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default:
                casts.extend(n for n, w in weights.items() if w.data_ptr() == args[0].data_ptr())
            return function(*args, **(kwargs or {}))

    def counted(what):
        casts.clear()
        with Watch():
            out = what()
        return out, (casts.count("policy"), casts.count("reference"))

    (trainer.rollout, trainer.rollout_update), of_rollout = counted(lambda: (trainer.roll_out(0), 0))
    assert of_rollout == (2, 1)  # sampling, and scoring
    trainer.sums = UpdateSums(torch.device("cpu"))
    batches = trainer.order.micro_batches(trainer.order.mini_batches(0, 0)[0], trainer.rollout.lengths)
    assert len(batches) > 1
    _, of_step = counted(lambda: trainer.training_step(trainer.model, {"step": 0}))
    assert of_step == (1, 0)
    assert counted(lambda: trainer.roll_out(0))[1] == (2, 0)


def test_a_warm_up_needs_a_value_network_of_its_own(tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="value_warmup needs a value network of its own"):
        trainer_of(tokenizer, tmp_path, more={"value": None}, value_warmup=1)


def test_the_defaults_are_those_of_the_papers() -> None:
    args = PPOConfig("unused", report_to="none", use_cpu=True)
    assert (args.cliprange, args.cliprange_value, args.vf_coef) == (0.2, 0.2, 0.1)
    assert (args.gamma, args.lam, args.num_ppo_epochs) == (1.0, 0.95, 4)
    assert (args.adam_epsilon, args.learning_rate, args.temperature) == (1e-5, 3e-6, 0.7)
    assert (args.kl_coef, args.missing_eos, args.missing_eos_rule) == (0.05, -1.0, "replace")


def test_dropout_is_off_in_all_four_roles(tokenizer, tmp_path: Path) -> None:
    roles = {
        name: tiny(tokenizer, LlamaForSequenceClassification, seed=1, num_labels=1, attention_dropout=0.5)
        for name in ("value", "reward")
    }
    reference = tiny(tokenizer, attention_dropout=0.5)
    trainer = trainer_of(
        tokenizer, tmp_path, reward=roles["reward"], more={"value": roles["value"], "reference": reference}
    )
    trainer.networks.policy.config.attention_dropout = trainer.networks.policy.config.attention_dropout
    for model in (*roles.values(), reference, trainer.networks.policy):
        assert model.config.attention_dropout == 0.0
        assert not any(m.p for m in model.modules() if isinstance(m, torch.nn.Dropout))
    # The networks sample in eval mode and learn in train mode: with dropout the first ratio would not be 1.
    assert updates(train(trainer))[0]["val/first_ratio_error"] == 0.0


def test_rewards_are_whitened_with_their_mean_kept() -> None:
    mask = torch.tensor([[1.0, 1, 0], [1, 1, 1]])
    values = torch.tensor([[1.0, 2, 9], [3, 4, 5]])
    white = whiten(values, mask, shift_mean=False)
    real = white[mask > 0].numpy()
    assert real.mean() == pytest.approx(3.0, abs=1e-5)
    assert real.std() == pytest.approx(1.0, abs=1e-4)


def test_the_adaptive_controller_follows_ziegler() -> None:
    raised = adapted_kl_coef(0.1, kl=60.0, target=6.0, episodes=64, horizon=10_000)
    assert raised == pytest.approx(0.1 * (1 + 0.2 * 64 / 10_000))  # the error is clipped at 0.2
    lowered = adapted_kl_coef(0.1, kl=5.4, target=6.0, episodes=64, horizon=10_000)
    assert lowered == pytest.approx(0.1 * (1 - 0.1 * 64 / 10_000))


def test_the_controller_holds_the_kl_at_its_target(tokenizer, tmp_path: Path) -> None:
    settings = {"num_updates": 25, "learning_rate": 5e-3, "kl_coef": 0.05, "micro_batch_tokens": 10_000}
    free = updates(train(trainer_of(tokenizer, tmp_path / "free", **settings)))
    held = updates(train(trainer_of(tokenizer, tmp_path / "held", kl_target=0.5, kl_horizon=8, **settings)))
    coefficients = [row["objective/kl_coef"] for row in held]
    assert coefficients[-1] > coefficients[0] == 0.05
    assert {row["objective/kl_coef"] for row in free} == {0.05}
    late = [np.mean([abs(row["objective/kl"]) for row in rows[-6:]]) for rows in (free, held)]
    assert late[1] < late[0] / 1.5


def test_an_update_ends_early_once_its_kl_is_too_large(tokenizer, tmp_path: Path) -> None:
    settings = {"learning_rate": 1e-2, "num_ppo_epochs": 4}
    whole = updates(train(trainer_of(tokenizer, tmp_path / "whole", **settings)))
    early = updates(train(trainer_of(tokenizer, tmp_path / "early", early_stop_kl=1e-6, **settings)))
    assert [row["val/passes"] for row in whole] == [4.0, 4.0]
    # The first step has ratio 1 and moves the policy; the second measures it and is the last.
    assert [row["val/passes"] for row in early] == [1.0, 1.0]


def test_a_skipped_step_moves_nothing(tokenizer, tmp_path: Path) -> None:
    class Watch(TrainerCallback):
        moved: list[bool]

        def __init__(self) -> None:
            self.moved, self.last = [], None

        def on_step_end(self, args, state, control, model=None, **kwargs):
            now = torch.cat([p.detach().flatten() for p in model.parameters()])
            self.moved.append(self.last is None or not torch.equal(now, self.last))
            self.last = now

    watch = Watch()
    train(
        trainer_of(
            tokenizer, tmp_path, early_stop_kl=1e-6, num_ppo_epochs=4, learning_rate=1e-2, callbacks=[watch]
        )
    )
    assert watch.moved == [True, True, *[False] * 6] * 2


@pytest.mark.parametrize(
    ("rule", "missing", "expected"), [("replace", -1.0, -1.0), ("add", -3.0, 2.0), ("replace", None, 5.0)]
)
def test_the_missing_eos_rules(tokenizer, tmp_path: Path, rule, missing, expected) -> None:
    trainer = trainer_of(
        tokenizer,
        tmp_path,
        reward=lambda prompts, outputs: [5.0] * len(outputs),
        response_length=1,
        missing_eos=missing,
        missing_eos_rule=rule,
        batch_size=64,
    )
    rollout = trainer.roll_out(0)
    eos = torch.tensor([row[-1] == tokenizer.eos_token_id for row in rollout.rows])
    assert 0 < eos.sum() < 64
    torch.testing.assert_close(rollout.returns[:, 0], torch.where(eos, 5.0, expected))


def test_a_custom_stop_token_ends_a_response_like_eos(tokenizer, tmp_path: Path) -> None:
    trainer = trainer_of(tokenizer, tmp_path, reward=ones, stop_tokens=[" yes", " no"], batch_size=64)
    stops = {tokenizer.eos_token_id, *(tokenizer(w)["input_ids"][0] for w in (" yes", " no"))}
    assert set(trainer.policy.stops) == stops
    rollout = trainer.roll_out(0)
    seen = set()
    for i, (row, start) in enumerate(zip(rollout.rows, rollout.starts, strict=True)):
        response = row[start:]
        assert not stops & set(response[:-1])
        seen |= stops & {response[-1]}
        # The last action earns the score: 1 if a stop token of any kind ended the response, else -1.
        last = rollout.returns[i, len(response) - 1].item()
        assert last == pytest.approx(1.0 if response[-1] in stops else -1.0, abs=1e-6)
    assert len(seen) == 3


# ---- rewards ----


def test_weighted_rewards_are_summed_and_logged_by_name(tokenizer, tmp_path: Path) -> None:
    scorer = tiny(tokenizer, LlamaForSequenceClassification, seed=1, num_labels=1)
    rewards = [scorer, reward_functions.length(3), reward_functions.repetition(1)]
    trainer = trainer_of(tokenizer, tmp_path, reward=rewards, reward_weights=[1.0, 0.5, 2.0])
    row = updates(train(trainer))[0]
    parts = [row[f"rewards/{name}"] for name in ("model", "length", "repetition")]
    assert all(parts)
    assert row["objective/scores"] == pytest.approx(parts[0] + 0.5 * parts[1] + 2 * parts[2], abs=1e-5)


def test_the_shipped_reward_functions() -> None:
    texts = ["one two three", "go go go go", "Stop this, now.", ""]
    none = [""] * 4
    assert reward_functions.length(3)(none, texts) == [0.0, -1.0, 0.0, -3.0]
    assert reward_functions.repetition(1)(none, texts) == [0.0, -0.75, 0.0, 0.0]
    assert reward_functions.format(r".*\.")(none, texts) == [0.0, 0.0, 1.0, 0.0]
    assert reward_functions.banned_words(["THIS", "go"])(none, texts) == [0.0, -4.0, -1.0, 0.0]
    with pytest.raises(ValueError, match="no regular expression"):
        reward_functions.format("(")


def test_a_reward_model_with_another_tokenizer_reads_the_text(tokenizer, tmp_path: Path) -> None:
    other = train_tokenizer([f"{p} {w}" for p in PROMPTS for w in WORDS.split()], "bpe", 300)
    model = tiny(other, LlamaForSequenceClassification, seed=3, num_labels=1, max_position_embeddings=128)
    foreign = RewardModel(model, other)
    trainer = trainer_of(tokenizer, tmp_path, reward=foreign, missing_eos=None, kl_coef=0.0, lam=1.0)
    rollout = trainer.roll_out(0)
    prompts = [PROMPTS[i] for i in trainer.order.prompts_of(0)]
    texts = [
        tokenizer.decode(row[start:], skip_special_tokens=True)
        for row, start in zip(rollout.rows, rollout.starts, strict=True)
    ]
    # Without discount or penalty the return of the first token is the score.
    torch.testing.assert_close(
        rollout.returns[:, 0],
        torch.tensor(score(foreign, [as_row(text) for text in prompts], texts)),
        atol=1e-5,
        rtol=1e-5,
    )


def test_a_reward_model_on_the_same_tokenizer_reads_the_ids(tokenizer, tmp_path: Path) -> None:
    scorer = tiny(tokenizer, LlamaForSequenceClassification, seed=1, num_labels=1)
    trainer = trainer_of(tokenizer, tmp_path, reward=RewardModel(scorer, copy.deepcopy(tokenizer)))
    assert list(trainer.roles.rewards.values()) == [scorer]


def test_a_reward_model_with_another_template_reads_the_text(tokenizer) -> None:
    scorer = tiny(tokenizer, LlamaForSequenceClassification, seed=1, num_labels=1)
    turns = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    ours, theirs = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
    ours.chat_template = turns + "{% if add_generation_prompt %}:{% endif %}"
    theirs.chat_template = turns + "{% if add_generation_prompt %} yes{% endif %}"
    reward = RewardModel(scorer, theirs)
    assert named_rewards([reward], ours) == {"model": reward}
    assert named_rewards([reward], theirs) == {"model": scorer}


def test_chat_messages_are_prompts(tokenizer, tmp_path: Path) -> None:
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    )
    messages = [[{"role": "user", "content": p.removesuffix(":")}] for p in PROMPTS]
    as_chat = trainer_of(chatty, tmp_path / "chat", reward=ones, more={"prompts": messages})
    as_text = trainer_of(tokenizer, tmp_path / "text", reward=ones)
    assert as_chat.roll_out(0).rows == as_text.roll_out(0).rows
    with pytest.raises(ValueError, match="no chat template"):
        trainer_of(tokenizer, tmp_path, more={"prompts": messages})


# ---- what learns ----


def test_frozen_layers_stay_and_the_others_learn(tokenizer, tmp_path: Path) -> None:
    trainer = trainer_of(tokenizer, tmp_path, freeze_layers=1)
    before = state(trainer)
    train(trainer)
    changed = {name for name, p in state(trainer).items() if not torch.equal(p, before[name])}
    assert changed
    assert not any("embed_tokens" in name or "layers.0." in name for name in changed)
    for network in ("policy", "value"):
        assert any(name.startswith(network) and "layers.1." in name for name in changed)


def test_a_value_head_shares_the_policys_backbone(tokenizer, tmp_path: Path) -> None:
    trainer = trainer_of(tokenizer, tmp_path, more={"value": None})
    assert {n.split(".")[0] for n, _ in trainer.model.named_parameters()} == {"policy", "value_head"}
    assert not trainer.roll_out(0).values.any()  # the head starts at zero
    train(trainer)
    assert trainer.networks.value_head.weight.abs().sum() > 0


def test_lora_shares_one_backbone_and_the_reference_is_the_adapter_off(tokenizer, tmp_path: Path) -> None:
    start = tiny(tokenizer)
    trainer = trainer_of(
        tokenizer, tmp_path, more={"value": None, "peft_config": LoraConfig(**LORA)}, learning_rate=1e-2
    )
    assert trainer.roles.reference is trainer.networks.policy
    learning = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert learning
    assert all("lora_" in name or "value_head" in name for name in learning)
    rows = updates(train(trainer))
    assert rows[0]["objective/kl"] == 0.0
    assert rows[-1]["objective/kl"] != 0.0
    batch = batch_of([[5, 6, 7, 8, 9]], [2], tokenizer.pad_token_id)
    use_short_attention(start)
    with torch.no_grad():
        assert torch.equal(
            trainer.roles.reference_logprobs(batch, 1.0), response_logprobs(start.eval(), batch, 1.0)[0]
        )
        ours, _ = response_logprobs(trainer.networks.policy, batch, 1.0)
        merged, _ = response_logprobs(trainer.trained_policy(), batch, 1.0)
    torch.testing.assert_close(merged, ours, atol=1e-5, rtol=1e-5)
    assert not any("lora" in name for name, _ in trainer.trained_policy().named_parameters())


def test_a_reward_adapter_on_the_backbone_scores_as_its_model(tokenizer, tmp_path: Path) -> None:
    scorer = tiny(tokenizer, LlamaForSequenceClassification, num_labels=1)  # the body of the policy
    adapted = get_peft_model(scorer, LoraConfig(**{**LORA, "target_modules": ["q_proj", "down_proj"]}))
    torch.manual_seed(5)
    for name, p in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.5)
    weights = get_peft_model_state_dict(adapted)
    adapters = Adapters(adapted.peft_config["default"], weights)
    reward = RewardAdapter(adapters, scorer.score.weight.detach().clone(), 0.25)
    trainer = trainer_of(
        tokenizer, tmp_path, reward=reward, more={"value": None, "peft_config": LoraConfig(**LORA)}
    )
    batch = batch_of([[5, 6, 7, 8], [7, 8, 9]], [2, 1], tokenizer.pad_token_id)
    with torch.no_grad():
        expected = sequence_scores(scorer.eval(), batch.ids, batch.lengths) - 0.25
        before = response_logprobs(trainer.networks.policy, batch, 1.0)[0]
        scores = model_scores(trainer.roles.rewards, batch)
        torch.testing.assert_close(scores[0], expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(before, response_logprobs(trainer.networks.policy, batch, 1.0)[0])
    learning = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    assert learning
    assert not any(".model." in name.split("lora_")[-1] for name in learning)
    train(trainer)


@pytest.mark.parametrize("kind", ["lora", "head", "adaptive", "ptx", "warmup"])
def test_every_variant_resumes_to_the_same_bits(tokenizer, tmp_path: Path, kind: str) -> None:
    def trainer(folder: str, callbacks=None):
        more, settings = {}, {}
        if kind == "lora":
            more = {"value": None, "peft_config": LoraConfig(**LORA)}
        elif kind == "head":
            more = {"value": None}
        elif kind == "warmup":
            settings = {"value_warmup": 1}
        elif kind == "adaptive":
            settings = {"kl_target": 0.5, "kl_horizon": 100, "early_stop_kl": 1e-3}
        else:
            more, settings = {"ptx_texts": PROMPTS}, {"ptx_coef": 1.0, "ptx_batch_size": 4}
        return trainer_of(
            tokenizer, tmp_path / folder, more=more or None, num_updates=3, callbacks=callbacks, **settings
        )

    whole = trainer("whole")
    curve = train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(trainer("cut", [Stop(6)]))
    resumed = trainer("cut")
    assert train(resumed) == curve
    assert resumed.kl_coef == whole.kl_coef
    for name, p in state(whole).items():
        assert torch.equal(p, state(resumed)[name]), name


# ---- PPO-ptx ----


def test_ptx_adds_the_gradient_of_the_language_modelling_loss(tokenizer, tmp_path: Path) -> None:
    texts = [p + " yes no" for p in PROMPTS]
    plain = gradient_of(trainer_of(tokenizer, tmp_path / "plain"))
    trainer = trainer_of(
        tokenizer, tmp_path / "ptx", more={"ptx_texts": texts}, ptx_coef=3.0, ptx_batch_size=5
    )
    mixed = gradient_of(trainer)
    chosen = torch.randint(
        len(texts), (5,), generator=torch.Generator().manual_seed(trainer.args.seed + 15_485_863)
    )
    rows = [[*tokenizer(texts[i])["input_ids"], tokenizer.eos_token_id] for i in chosen]
    policy, total, tokens = tiny(tokenizer), 0.0, sum(len(row) - 1 for row in rows)
    for row in rows:
        ids = torch.tensor([row])
        total = total + policy(input_ids=ids, labels=ids).loss * (len(row) - 1) / tokens
    (3.0 * total).backward()
    expected = torch.cat([p.grad.flatten() for p in policy.parameters()])
    torch.testing.assert_close((mixed - plain)[: len(expected)], expected, atol=1e-5, rtol=1e-4)
