"""Each fault of TRL 1.12's PPOTrainer, and that ours has none of them.

Fault 9, that no test checks a number, is this file and test_ppo.py.
"""

# pytest finds the fixture `tokenizer` by the name of an argument:
# ruff: noqa: F401, F811

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_ppo import PROMPTS, Stop, gradient_of, ones, state, tiny, tokenizer, trainer_of, updates
from transformers import TrainerCallback

from rlhf.models.batches import batch_of
from rlhf.models.logprobs import response_logprobs
from rlhf.models.sampling import check_sampling, sample
from rlhf.rl.metrics import UpdateSums
from rlhf.training.loop import train


def test_trl_fault_1_training_resumes_with_its_value_network(tokenizer, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(trainer_of(tokenizer, tmp_path, num_updates=3, callbacks=[Stop(5)]))
    resumed = trainer_of(tokenizer, tmp_path, num_updates=3)
    fresh = state(resumed)
    resumed._load_from_checkpoint(str(tmp_path / "checkpoint-4"))
    for network in ("policy", "value"):
        assert any(not torch.equal(p, fresh[n]) for n, p in state(resumed).items() if n.startswith(network))
    train(resumed)
    assert resumed.state.global_step == 12


@pytest.mark.parametrize("mini_batches", [1, 2, 4])
def test_trl_fault_2_every_mini_batch_is_one_optimiser_step(tokenizer, tmp_path: Path, mini_batches) -> None:
    class Count(TrainerCallback):
        steps = 0

        def on_optimizer_step(self, *args, **kwargs):
            self.steps += 1

    count = Count()
    few = PROMPTS[:16]  # every update ends a pass over the data
    train(
        trainer_of(
            tokenizer,
            tmp_path,
            callbacks=[count],
            num_mini_batches=mini_batches,
            micro_batch_tokens=20,
            more={"prompts": few},
        )
    )
    assert count.steps == 2 * 2 * mini_batches


def test_trl_fault_3_the_gradient_norm_is_clipped(tokenizer, tmp_path: Path) -> None:
    norms = []

    class Norm(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            norms.append(math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters())))

    train(trainer_of(tokenizer, tmp_path / "free", max_grad_norm=1e6, callbacks=[Norm()]))
    free, norms = norms, []
    train(trainer_of(tokenizer, tmp_path / "clipped", max_grad_norm=0.01, callbacks=[Norm()]))
    assert max(free) > 0.02
    assert max(norms) == pytest.approx(0.01, rel=1e-3)


def test_trl_fault_3_gradient_checkpointing_recomputes_and_changes_nothing(tokenizer, tmp_path: Path) -> None:
    calls = {}

    def gradient(checkpointing: bool) -> torch.Tensor:
        trainer = trainer_of(tokenizer, tmp_path / str(checkpointing), gradient_checkpointing=checkpointing)
        if checkpointing:
            trainer.model.activation_checkpointing_enable()
        trainer.rollout, trainer.rollout_update = trainer.roll_out(0), 0
        trainer.sums = UpdateSums(torch.device("cpu"))
        calls[checkpointing] = 0

        def count(*_):
            calls[checkpointing] += 1

        trainer.networks.policy.model.layers[0].mlp.gate_proj.register_forward_hook(count)
        return gradient_of(trainer)

    plain, recomputed = gradient(False), gradient(True)
    torch.testing.assert_close(recomputed, plain, atol=1e-6, rtol=1e-5)
    assert calls[True] == 2 * calls[False]


def test_trl_fault_4_the_score_lands_on_the_action_that_ended_the_response(tokenizer, tmp_path: Path) -> None:
    trainer = trainer_of(tokenizer, tmp_path, reward=ones, kl_coef=0.0, lam=0.0, missing_eos=None)
    rollout = trainer.roll_out(0)
    trainer.networks.value.score.weight.data.zero_()
    rollout = trainer.roll_out(0)
    for i, (row, start) in enumerate(zip(rollout.rows, rollout.starts, strict=True)):
        returns = rollout.returns[i]
        assert returns[len(row) - start - 1] == 1.0
        assert returns.sum() == 1.0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trl_fault_5_the_first_ratio_is_exactly_one(tokenizer, tmp_path: Path, precision) -> None:
    rows = updates(train(trainer_of(tokenizer, tmp_path, precision=precision, num_updates=3)))
    assert [row["val/first_ratio_error"] for row in rows] == [0.0] * 3


def test_trl_fault_6_only_response_tokens_reach_the_vocabulary(tokenizer, tmp_path: Path) -> None:
    trainer = trainer_of(tokenizer, tmp_path, micro_batch_tokens=10_000, num_mini_batches=1)
    trainer.rollout, trainer.rollout_update = trainer.roll_out(0), 0
    trainer.sums = UpdateSums(torch.device("cpu"))
    seen = []
    trainer.networks.policy.lm_head.register_forward_hook(lambda m, inputs, out: seen.append(out.shape))
    trainer.training_step(trainer.model, {"step": 0})
    assert [tuple(shape) for shape in seen] == [(int(trainer.rollout.mask.sum()), len(tokenizer))]


def test_trl_fault_6_chunked_log_probabilities_are_the_same(tokenizer, monkeypatch) -> None:
    model = tiny(tokenizer)
    batch = batch_of([[5, 6, 7, 8, 9, 10, 11]], [2], tokenizer.pad_token_id)
    results = []
    for elements in (1 << 24, 2 * len(tokenizer)):
        monkeypatch.setattr("rlhf.models.logprobs.LOGITS", elements)
        model.zero_grad()
        logprobs, entropy = response_logprobs(model, batch, 0.7, with_entropy=True)
        logprobs.sum().backward()
        gradient = model.model.layers[0].mlp.up_proj.weight.grad.clone()
        results.append((logprobs.detach(), entropy.detach(), gradient))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=1e-5)


def test_trl_fault_7_finished_rows_leave_the_batch_and_neighbours_do_not_matter(tokenizer) -> None:
    model = tiny(tokenizer).eval()
    prompts = [tokenizer(p)["input_ids"] for p in PROMPTS[:24]]
    prompts[3] = prompts[3] * 3
    noise = torch.rand(24, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    settings = {"stop": [tokenizer.eos_token_id], "pad": tokenizer.pad_token_id, "temperature": 1.0}
    check_sampling(model)  # so that it does not pass the hook
    rows = []
    hook = model.register_forward_pre_hook(
        lambda m, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    together = sample(model, prompts, uniforms=noise, **settings)
    hook.remove()
    assert rows[0] == 24
    assert rows[-1] <= 18
    for i, prompt in enumerate(prompts):
        assert sample(model, [prompt], uniforms=noise[i : i + 1], **settings) == [together[i]]


def test_trl_fault_7_sampling_follows_the_tempered_distribution(tokenizer) -> None:
    model = tiny(tokenizer).eval()
    prompt = tokenizer(PROMPTS[0])["input_ids"]
    n = 4000
    noise = torch.rand(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = sample(model, [prompt] * n, stop=[1], pad=0, temperature=0.7, uniforms=noise)
    counts = np.bincount([row[0] for row in drawn], minlength=len(tokenizer)) / n
    with torch.no_grad():
        p = (model(input_ids=torch.tensor([prompt])).logits[0, -1] / 0.7).softmax(-1).numpy()
    assert np.abs(counts - p).max() < 4 * math.sqrt(0.25 / n)


def test_trl_fault_8_diagnostics_are_over_tokens_and_not_padding(tokenizer, tmp_path: Path) -> None:
    rows = [
        updates(train(trainer_of(tokenizer, tmp_path / str(tokens), micro_batch_tokens=tokens)))
        for tokens in (1, 10_000)
    ]
    for alone, together in zip(*rows, strict=True):
        for name, value in alone.items():
            assert together[name] == pytest.approx(value, abs=2e-5, rel=1e-3), name
