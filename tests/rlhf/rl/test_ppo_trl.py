"""Agreement with TRL 1.12's `PPOTrainer` where that is right, on the same rollouts.

TRL dropped PPO after 1.12, so this needs that version in a folder apart, named by the variable TRL112:

    pip install --target DIR --no-deps trl==1.12.0
    TRL112=DIR pytest tests/rlhf/rl/test_ppo_trl.py

TRL's trainer runs one update of one epoch on a tiny model in a process of its own and hands over what it
computed. Our functions get its samples, log-probabilities, values and scores and must come to the same
advantages, returns and losses, up to three named differences:

- TRL places the score one slot after EOS, where no action was taken, and its episodes are one slot longer;
- it whitens with the unbiased variance, which is another factor of sqrt(n / (n - 1));
- its value loss averages over that extra slot too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import PATIENCE
from safetensors.torch import load_file

from rlhf.rl.advantages import gae, kl_estimate, policy_loss, token_rewards, value_loss, whiten

TRL = os.environ.get("TRL112")
pytestmark = pytest.mark.skipif(not TRL, reason="TRL112 names no folder with TRL 1.12")
RESPONSE, TEMPERATURE, KL_COEF, GAMMA, LAM = 12, 0.7, 0.1, 0.97, 0.9

RUN_TRL = """
import sys
import numpy
import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

folder, kind = sys.argv[1:]
response, temperature, kl_coef, gamma, lam = map(float, "{settings}".split())
kept = {{}}

def keep(module, name, pick):
    # What each call gave or got, in order, as it was then.
    function = getattr(module, name)
    def keeping(*args, **kwargs):
        out = function(*args, **kwargs)
        kept.setdefault(name, []).append([torch.as_tensor(x).detach().clone() for x in pick(out, *args)])
        return out
    setattr(module, name, keeping)

keep(ppo_trainer, "batch_generation", lambda out, model, queries, *_: (queries, out[0]))
keep(ppo_trainer, "selective_log_softmax", lambda out, *_: (out,))
keep(ppo_trainer, "get_reward", lambda out, *_: out[:2])
keep(ppo_trainer, "masked_whiten", lambda out, values, mask: (values, mask, out))
keep(numpy.random, "permutation", lambda out, *_: (out,))

tokenizer = AutoTokenizer.from_pretrained(folder + "/policy", padding_side="left")
load = AutoModelForCausalLM.from_pretrained
critic = AutoModelForSequenceClassification.from_pretrained
torch.manual_seed(3)
policy, reference = load(folder + "/policy"), load(folder + "/policy")
with torch.no_grad():  # a reference that differs, so that the penalty is not zero
    for weight in reference.parameters():
        weight += 0.02 * torch.randn_like(weight)
prompts = open(folder + "/prompts.txt").read().splitlines()
trainer = PPOTrainer(
    PPOConfig(
        output_dir=folder + "/out", seed=5, per_device_train_batch_size=32, total_episodes=32,
        num_ppo_epochs=1, num_mini_batches=1, num_sample_generations=0, response_length=int(response),
        temperature=temperature, kl_coef=kl_coef, kl_estimator=kind, gamma=gamma, lam=lam, stop_token="eos",
        report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True, learning_rate=1e-3,
    ),
    tokenizer, model=policy, ref_model=reference, value_model=critic(folder + "/reward"),
    reward_model=critic(folder + "/reward"),
    train_dataset=Dataset.from_dict(dict(input_ids=tokenizer(prompts)["input_ids"])),
)
trainer.train()
logs = next(row for row in trainer.state.log_history if "loss/policy_avg" in row)
queries, sequences = kept["batch_generation"][0]
sampled, reference, trained = (call[0] for call in kept["selective_log_softmax"])
values, scores = kept["get_reward"][0][0], kept["get_reward"][1][1]
advantages, mask, whitened = kept["masked_whiten"][0]
found = dict(
    queries=queries, sequences=sequences, logprobs=sampled, ref_logprobs=reference, new_logprobs=trained,
    values=values.squeeze(-1), scores=scores, advantages=advantages, mask=mask.float(), whitened=whitened,
    order=kept["permutation"][0][0],
    **{{name: torch.tensor(value) for name, value in logs.items() if isinstance(value, float)}},
)
save_file({{name: x.contiguous() for name, x in found.items()}}, folder + "/trl.safetensors")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from benchmarks.ppo_models import draw_prompts, write_models

    folder = tmp_path_factory.mktemp("trl")
    write_models(folder, "tiny", seed=2, dtype=torch.float32)
    prompts = draw_prompts("tiny", 64, 3, 20, seed=2)
    (folder / "prompts.txt").write_text("\n".join(prompts))
    return folder


@pytest.fixture(scope="module", params=["k1", "k3"])
def trl(request: pytest.FixtureRequest, folder: Path) -> dict[str, torch.Tensor]:
    """What TRL computed in its first update, by name; [episodes, tokens] unless it is a number."""
    script = RUN_TRL.format(settings=f"{RESPONSE} {TEMPERATURE} {KL_COEF} {GAMMA} {LAM}")
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), request.param],
        env={**os.environ, "PYTHONPATH": str(TRL), "TRL_EXPERIMENTAL_SILENCE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    computed = load_file(folder / "trl.safetensors")
    # A prompt's last token decides the first response token, so values start one before the response.
    start = computed["queries"].shape[1]
    computed["values"] = computed["values"][:, start - 1 : -1]
    computed["kind"] = request.param  # type: ignore[assignment]
    return computed


def longer(mask: torch.Tensor) -> torch.Tensor:
    """TRL's episodes: one slot more, except where the response fills all slots."""
    return torch.cat([torch.ones_like(mask[:, :1]), mask[:, :-1]], 1)


def ours(trl: dict[str, torch.Tensor], mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Our advantages and returns of TRL's rollout, episodes being what `mask` says."""
    kl = kl_estimate(trl["logprobs"], trl["ref_logprobs"], trl["kind"]) * trl["mask"]  # type: ignore[arg-type]
    rewards = token_rewards(trl["scores"], kl, mask, KL_COEF)
    return gae(rewards, trl["values"] * mask, mask, GAMMA, LAM)


def test_the_rollout_has_what_the_comparison_needs(trl: dict[str, torch.Tensor]) -> None:
    lengths = trl["mask"].sum(1)
    assert (lengths < RESPONSE).any()
    assert (lengths == RESPONSE).any()
    responses = trl["sequences"][:, trl["queries"].shape[1] :]
    ended = (responses == 1).cumsum(1)
    own = ((ended == 0) | ((ended == 1) & (responses == 1))).float()
    torch.testing.assert_close(own, trl["mask"])  # the same response tokens, EOS included


def test_the_kl_and_its_penalty(trl: dict[str, torch.Tensor]) -> None:
    kl = kl_estimate(trl["logprobs"], trl["ref_logprobs"], trl["kind"]) * trl["mask"]  # type: ignore[arg-type]
    assert kl.sum() > 0.01
    torch.testing.assert_close(kl.sum(1).mean(), trl["objective/kl"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        -KL_COEF * kl.sum(1).mean(), trl["objective/non_score_reward"], rtol=1e-5, atol=1e-6
    )


def test_advantages_of_whole_responses(trl: dict[str, torch.Tensor]) -> None:
    """Where a response fills its slots TRL places the score as we do: nothing differs."""
    advantages, _ = ours(trl, trl["mask"])
    whole = trl["mask"].sum(1) == RESPONSE
    torch.testing.assert_close(advantages[whole], trl["advantages"][whole], rtol=1e-5, atol=1e-6)
    # and elsewhere it does: the score of an ended response reaches TRL's episodes one slot late
    assert not torch.allclose(advantages[~whole], trl["advantages"][~whole], atol=1e-3)


def test_advantages_and_returns_with_the_score_one_slot_late(trl: dict[str, torch.Tensor]) -> None:
    mask = longer(trl["mask"])
    advantages, _ = ours(trl, mask)
    torch.testing.assert_close(advantages * mask, trl["advantages"] * mask, rtol=1e-5, atol=1e-6)


def test_whitening_up_to_the_unbiased_variance(trl: dict[str, torch.Tensor]) -> None:
    n = trl["mask"].sum()
    got = whiten(trl["advantages"], trl["mask"]) * ((n - 1) / n).sqrt()
    torch.testing.assert_close(got, trl["whitened"] * trl["mask"], rtol=1e-5, atol=1e-6)


def test_the_losses_of_the_first_step(trl: dict[str, torch.Tensor]) -> None:
    mask, mask_p1 = trl["mask"], longer(trl["mask"])
    _, returns = ours(trl, mask_p1)
    # TRL shuffles the episodes of an epoch; one micro-batch holds all of them, so the mean is the same.
    order = trl["order"]
    ratio = ((trl["new_logprobs"] - trl["logprobs"][order]) * mask[order]).exp()
    advantages = trl["whitened"][order] * mask[order]
    policy = (policy_loss(ratio, advantages, 0.2) * mask[order]).sum() / mask.sum()
    torch.testing.assert_close(policy, trl["loss/policy_avg"], rtol=1e-4, atol=1e-6)
    values = trl["values"] * mask_p1  # at the first step the values are those of the rollout
    value = (value_loss(values, values, returns, 0.2) * mask_p1).sum() / mask_p1.sum()
    torch.testing.assert_close(value, trl["loss/value_avg"], rtol=1e-4, atol=1e-6)
