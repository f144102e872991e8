"""Policy, reference, value and reward on one backbone: who learns, who stays, what each computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny_ppo import (
    PROMPTS,
    SHIFT,
    Stop,
    adapters,
    gradient_of,
    reward_adapter,
    tiny,
    trainer_of,
    updates,
    words_tokenizer,
)
from transformers import LlamaForSequenceClassification

from rlhf.compute import compute_in_float32
from rlhf.models.adapters import put_on
from rlhf.models.batches import batch_of
from rlhf.models.logprobs import hidden_states, response_logprobs, sequence_scores
from rlhf.models.policy import Policy, load_policy, save_model
from rlhf.models.reward_model import RewardModel, score
from rlhf.models.template import as_row
from rlhf.rl.rewards import model_scores
from rlhf.rl.trainer import RewardAdapter
from rlhf.training.loop import train

SHORT, LONG = [7, 8, 9], [5, 6, 7, 8]


@pytest.fixture(scope="module")
def tokenizer():
    return words_tokenizer()


def base(tokenizer, kind: str = "float32") -> Any:
    """A base model in float32, in bfloat16, or `wide`: bfloat16 with the arithmetic of float32."""
    model = tiny(tokenizer)
    if kind != "float32":
        model.to(torch.bfloat16)
    if kind == "wide":
        compute_in_float32(model)
    return model


def apart(tokenizer, adapter: RewardAdapter) -> Any:
    """The reward model that an adapter and its head are, with a body of its own."""
    model = tiny(tokenizer, LlamaForSequenceClassification, num_labels=1)
    put_on(model, adapter.adapters)
    model.score.weight.data.copy_(adapter.head)
    model.config.reward_shift = adapter.shift
    model.score.requires_grad_(True)
    return model.eval()


def on_one_backbone(
    tokenizer, folder: Path, kind: str = "float32", policy: Any = None, **settings: Any
) -> Any:
    """A run whose policy starts from adapters, with value and reward on the same backbone."""
    reward = reward_adapter(tokenizer)
    policy = policy or put_on(base(tokenizer, kind), adapters(tokenizer, 1))
    more = {"policy": policy, "value": reward} | settings.pop("more", {})
    return trainer_of(tokenizer, folder, reward=reward, more=more, **settings)


def batch(tokenizer) -> Any:
    return batch_of([LONG, SHORT], [2, 1], tokenizer.pad_token_id)


def by_role(trainer: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Copies of the weights, by the adapters that they belong to."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, p in trainer.networks.named_parameters():
        owner = name.split("lora_")[-1].split(".")[1] if "lora_" in name else name.split(".")[0]
        parts.setdefault(owner, {})[name] = p.detach().clone()
    return parts


def test_policy_and_value_learn_and_base_reference_and_reward_stay(tokenizer, tmp_path: Path) -> None:
    trainer = on_one_backbone(tokenizer, tmp_path, learning_rate=1e-2, num_updates=3)
    before = by_role(trainer)
    assert set(before) == {"policy", "default", "reference", "value", "reward-model"}
    learning = set(trainer.networks.learning())
    assert learning == {*before["default"], *(n for n in before["value"] if "lora_" in n), "value.weight"}
    rows = updates(train(trainer))
    after = by_role(trainer)
    assert set(trainer.networks.learning()) == learning
    for role, weights in before.items():
        moved = {name for name, p in weights.items() if not torch.equal(p, after[role][name])}
        assert moved == (set(weights) if role in ("default", "value") else set()), role
    assert rows[0]["objective/kl"] == 0.0
    assert rows[-1]["objective/kl"] > 0.0


def test_a_body_in_bfloat16_computes_in_float32_where_that_is_asked_for(tokenizer, tmp_path: Path) -> None:
    tokens, seen = batch(tokenizer), {}
    for precision in ("auto", "fp32"):
        trainer = on_one_backbone(tokenizer, tmp_path, "bfloat16", precision=precision, num_updates=1)
        with torch.no_grad():
            seen[precision] = response_logprobs(trainer.networks.policy, tokens, 1.0)[0]
    policy = put_on(base(tokenizer, "bfloat16").float(), adapters(tokenizer, 1)).get_base_model()
    with torch.no_grad():
        wide = response_logprobs(policy.eval(), tokens, 1.0)[0]
    torch.testing.assert_close(seen["fp32"], wide, atol=1e-6, rtol=1e-6)
    assert (seen["auto"] - wide).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "wide"])
def test_at_the_start_the_reference_is_the_policy_to_the_bit(tokenizer, tmp_path: Path, kind: str) -> None:
    trainer = on_one_backbone(tokenizer, tmp_path, kind, num_updates=1)
    tokens = batch(tokenizer)
    with torch.no_grad():
        ours = response_logprobs(trainer.networks.policy, tokens, 1.0)[0]
        without = response_logprobs(base(tokenizer, kind).eval(), tokens, 1.0)[0]
        assert torch.equal(trainer.roles.reference_logprobs(tokens, 1.0), ours)
    assert not torch.allclose(ours, without, atol=0.05)  # SFT's adapters are at work
    [row] = updates(train(trainer))
    assert (row["objective/kl"], row["val/first_ratio_error"]) == (0.0, 0.0)


def test_value_and_reward_compute_what_models_of_their_own_would(tokenizer, tmp_path: Path) -> None:
    trainer = on_one_backbone(tokenizer, tmp_path)
    tokens = batch(tokenizer)
    own = apart(tokenizer, reward_adapter(tokenizer))
    judge = reward_adapter(tokenizer, seed=3)
    judging = apart(tokenizer, judge)
    rows, texts = [as_row(p) for p in PROMPTS[:5]], [" red", " blue two", " no", " one one", " yes"]
    learning = set(trainer.networks.learning())
    with torch.no_grad():
        policy = response_logprobs(trainer.networks.policy, tokens, 1.0)[0]
        _, _, values = trainer.networks(tokens, 1.0)
        states = hidden_states(own, tokens.ids, tokens.before)
        torch.testing.assert_close(values, own.score(states).squeeze(-1) - SHIFT)
        scores = model_scores(trainer.roles.rewards, tokens)
        torch.testing.assert_close(scores[0], sequence_scores(own, tokens.ids, tokens.lengths))
        for adapter, model in ((trainer.roles.rewards["model"].reward, own), (judge, judging)):
            expected = score(RewardModel(model, tokenizer), rows, texts)
            assert trainer.scorer(adapter)(rows, texts) == pytest.approx(expected, abs=1e-5)
        # Whoever computed last, the policy is what is on.
        assert torch.equal(policy, response_logprobs(trainer.networks.policy, tokens, 1.0)[0])
    assert set(trainer.networks.learning()) == learning
    assert len(scores) == 1  # the judge is no reward


def test_each_judge_on_the_backbone_keeps_its_own_adapters(tokenizer, tmp_path: Path) -> None:
    trainer = on_one_backbone(tokenizer, tmp_path)
    rows, texts = [as_row(p) for p in PROMPTS[:3]], [" red", " blue two", " no"]
    judges = [reward_adapter(tokenizer, seed) for seed in (3, 4)]
    scorers = [trainer.scorer(judge) for judge in judges]
    assert trainer.roles.judges[0].reward is judges[0]
    for judge, scorer in zip(judges, scorers, strict=True):
        expected = score(RewardModel(apart(tokenizer, judge), tokenizer), rows, texts)
        assert scorer(rows, texts) == pytest.approx(expected, abs=1e-5)
    trainer.scorer(judges[1])
    assert len(trainer.roles.judges) == 2  # it is there already


def test_the_gradient_is_that_of_networks_of_their_own(tokenizer, tmp_path: Path) -> None:
    """The same update with a policy and a value network that share nothing."""
    shared = on_one_backbone(tokenizer, tmp_path / "shared", num_mini_batches=1)
    policy = put_on(tiny(tokenizer), adapters(tokenizer, 1))
    value = apart(tokenizer, reward_adapter(tokenizer))
    whole = on_one_backbone(
        tokenizer, tmp_path / "apart", policy=policy, more={"value": value}, num_mini_batches=1
    )
    flat = [gradient_of(trainer) for trainer in (shared, whole)]
    assert flat[0].shape == flat[1].shape
    assert shared.rollout.figures == pytest.approx(whole.rollout.figures, abs=1e-5)
    grads = [
        {n: p.grad for n, p in t.networks.named_parameters() if p.grad is not None} for t in (shared, whole)
    ]
    for name, gradient in grads[0].items():
        if ".default." in name:
            torch.testing.assert_close(gradient, grads[1][name], atol=1e-6, rtol=1e-4)
        elif ".value." in name:
            other = "value." + name.removeprefix("policy.").replace(".value.", ".default.")
            torch.testing.assert_close(gradient, grads[1][other], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(grads[0]["value.weight"], grads[1]["value.score.weight"], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", ["float32", "wide"])
def test_a_layer_computed_again_has_the_adapters_of_the_first_time(
    tokenizer, tmp_path: Path, kind: str
) -> None:
    """Both networks go forward before either goes back, when the policy's adapters are on."""

    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        trainer = on_one_backbone(
            tokenizer, tmp_path / str(checkpointing), kind, activation_checkpointing=checkpointing
        )
        if checkpointing:  # as the Trainer does when it begins
            trainer.networks.activation_checkpointing_enable()
        trainer.networks.train()
        calls = []
        layer = trainer.networks.policy.model.layers[0].mlp.gate_proj
        layer.register_forward_hook(lambda *_: calls.append(layer.active_adapters))
        logprobs, _, values = trainer.networks(batch(tokenizer), 1.0)
        (logprobs.sum() + values.square().sum()).backward()
        again = [["value"], ["default"]] if checkpointing else []
        assert sorted(calls) == sorted([["default"], ["value"], *again])
        return {name: p.grad for name, p in trainer.networks.learning().items()}

    plain, recomputed = gradients(False), gradients(True)
    for name, gradient in plain.items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "wide"])
@pytest.mark.parametrize("stop", [5, 6])
def test_a_killed_run_ends_with_the_same_bits(tokenizer, tmp_path: Path, kind: str, stop: int) -> None:
    def trainer(folder: str, callbacks: Any = None) -> Any:
        return on_one_backbone(
            tokenizer,
            tmp_path / folder,
            kind,
            callbacks=callbacks,
            num_updates=3,
            activation_checkpointing=True,
            kl_target=0.5,
            learning_rate=1e-2,
        )

    whole = trainer("whole")
    curve = train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(trainer("cut", [Stop(stop)]))
    resumed = trainer("cut")
    assert train(resumed) == curve
    assert resumed.kl_coef == whole.kl_coef
    for (name, p), q in zip(whole.networks.named_parameters(), resumed.networks.parameters(), strict=True):
        assert torch.equal(p, q), name
    stored = {p.dtype for p in whole.networks.learning().values()}
    assert stored == {torch.float32}


def test_what_learnt_is_saved_as_adapters_on_the_base(tokenizer, tmp_path: Path) -> None:
    save_model(Policy(base(tokenizer), tokenizer), tmp_path / "base")
    policy = load_policy(tmp_path / "base")
    policy.adapters = put_on(policy.model, adapters(tokenizer, 1))
    trainer = on_one_backbone(
        tokenizer, tmp_path, policy=policy.adapters, learning_rate=1e-2, stop_tokens=[" no"]
    )
    train(trainer)
    with torch.no_grad():
        ours = response_logprobs(policy.model, batch(tokenizer), 1.0)[0]
    adapted = trainer.trained_policy()
    assert adapted is policy.adapters
    assert set(adapted.peft_config) == {"default"}
    save_model(policy, tmp_path / "ppo")
    assert not (tmp_path / "ppo/model.safetensors").exists()
    again = load_policy(tmp_path / "ppo")
    with torch.no_grad():
        assert torch.equal(response_logprobs(again.model, batch(tokenizer), 1.0)[0], ours)
    assert again.stops == trainer.policy.stops


def test_frozen_layers_keep_the_adapters_that_they_came_with(tokenizer, tmp_path: Path) -> None:
    trainer = on_one_backbone(tokenizer, tmp_path, freeze_layers=1, learning_rate=1e-2)
    before = by_role(trainer)
    train(trainer)
    after = by_role(trainer)
    for role in ("default", "value"):
        moved = {name for name, p in before[role].items() if not torch.equal(p, after[role][name])}
        assert {name for name in before[role] if "layers.0." not in name} == moved
    with pytest.raises(ValueError, match="freeze_layers is 7; the model has 2 layers"):
        on_one_backbone(tokenizer, tmp_path, freeze_layers=7)


def test_dropout_of_adapters_is_off(tokenizer, tmp_path: Path) -> None:
    config = LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear")
    trainer = trainer_of(tokenizer, tmp_path, more={"value": None, "peft_config": config}, num_updates=1)
    assert any(isinstance(m, torch.nn.Dropout) for m in trainer.networks.modules())
    assert not any(m.p for m in trainer.networks.modules() if isinstance(m, torch.nn.Dropout))
    assert updates(train(trainer))[0]["val/first_ratio_error"] == 0.0


def test_one_set_of_weights_is_in_memory(tokenizer, tmp_path: Path) -> None:
    trainer = on_one_backbone(tokenizer, tmp_path)
    shared = {id(m) for m in trainer.networks.modules() if isinstance(m, BaseTunerLayer)}
    assert len(shared) == 2 * 7
    assert not trainer.roles.frozen
    full = trainer_of(tokenizer, tmp_path)
    own = sum(p.numel() for p in full.networks.parameters()) + sum(
        p.numel() for model in full.roles.frozen for p in model.parameters()
    )
    ours = sum(p.numel() for name, p in trainer.networks.named_parameters() if "lora_" not in name)
    assert 3.9 * (ours - 16) < own < 4.1 * ours  # policy, reference, value, reward


def test_what_cannot_share_a_backbone_is_refused_in_one_line(tokenizer, tmp_path: Path) -> None:
    fresh = LoraConfig(r=4, target_modules="all-linear")
    for more, message in (
        ({"peft_config": fresh}, "has adapters already, which will learn: give no peft_config"),
        ({"reference": tiny(tokenizer)}, "the reference is on the policy's backbone: give none"),
    ):
        with pytest.raises(ValueError, match=message):
            on_one_backbone(tokenizer, tmp_path, more=more)
    with pytest.raises(ValueError, match="adapters have bias 'all', so they change the backbone"):
        trainer_of(
            tokenizer,
            tmp_path,
            more={"peft_config": LoraConfig(r=4, bias="all", target_modules="all-linear")},
        )
    for more in ({"value": reward_adapter(tokenizer)}, {}):
        reward = None if more else reward_adapter(tokenizer)
        with pytest.raises(ValueError, match="a RewardAdapter needs the backbone of a policy with adapters"):
            trainer_of(tokenizer, tmp_path, reward=reward, more=more)
