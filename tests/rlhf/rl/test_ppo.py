"""PPO against a float64 reference, its invariants, and a toy task with a known optimum."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_ppo import PROMPTS, Stop, gradient_of, tiny, trainer_of, updates, words_tokenizer
from transformers import LlamaForSequenceClassification, TrainerCallback

from rlhf.models.batches import batch_of, token_batches
from rlhf.models.logprobs import head_scores, hidden_states, response_logprobs
from rlhf.rl.advantages import gae, kl_estimate, policy_loss, token_rewards, value_loss, whiten
from rlhf.training.loop import train


@pytest.fixture(scope="module")
def tokenizer():
    return words_tokenizer()


# ---- the arithmetic against plain float64 loops ----


def episodes(seed=0, rows=5, width=7):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, width + 1, rows)
    mask = (np.arange(width) < lengths[:, None]).astype(float)
    draw = lambda: rng.normal(size=(rows, width))  # noqa: E731
    return mask, lengths, draw


def test_gae_agrees_with_a_float64_loop() -> None:
    mask, lengths, draw = episodes()
    rewards, values, gamma, lam = draw() * mask, draw() * mask, 0.97, 0.9
    expected = np.zeros_like(rewards)
    for i, length in enumerate(lengths):
        for t in range(length):  # the sum of discounted residuals, written out
            for k in range(t, length):
                following = values[i, k + 1] if k + 1 < length else 0.0
                delta = rewards[i, k] + gamma * following - values[i, k]
                expected[i, t] += (gamma * lam) ** (k - t) * delta
    advantages, returns = gae(*(torch.tensor(x) for x in (rewards, values, mask)), gamma, lam)
    np.testing.assert_allclose(advantages.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(returns.numpy(), (expected + values) * mask, atol=1e-12)


def test_whitening_agrees_with_numpy_and_ignores_padding() -> None:
    mask, _, draw = episodes(1)
    values = draw()
    real = values[mask == 1]
    expected = (values - real.mean()) / np.sqrt(real.var() + 1e-8) * mask
    got = whiten(torch.tensor(values), torch.tensor(mask)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-9)
    changed = np.where(mask == 1, values, 1e6)
    np.testing.assert_allclose(whiten(torch.tensor(changed), torch.tensor(mask)).numpy(), got, atol=1e-9)


def test_kl_estimators_agree_with_their_formulas_and_the_true_kl() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    log_p, log_q = torch.tensor(np.log(p)), torch.tensor(np.log(q))
    truth = float((p * np.log(p / q)).sum())
    expected = {"k1": np.log(p / q), "k2": np.log(p / q) ** 2 / 2, "k3": q / p - 1 - np.log(q / p)}
    for kind, formula in expected.items():
        np.testing.assert_allclose(kl_estimate(log_p, log_q, kind).numpy(), formula, atol=1e-12)
    for kind in ("k1", "k3"):  # both unbiased: their expectation under p is the KL itself
        assert float((torch.tensor(p) * kl_estimate(log_p, log_q, kind)).sum()) == pytest.approx(truth)


def test_clipped_losses_agree_with_the_papers_formulas() -> None:
    rng = np.random.default_rng(2)
    ratio, adv = rng.uniform(0.5, 1.6, 50), rng.normal(size=50)
    expected = -np.minimum(ratio * adv, np.clip(ratio, 0.8, 1.2) * adv)
    got = policy_loss(torch.tensor(ratio), torch.tensor(adv), 0.2)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)
    new, old, returns = rng.normal(size=50), rng.normal(size=50), rng.normal(size=50)
    clipped = np.clip(new, old - 0.2, old + 0.2)
    expected = 0.5 * np.maximum((new - returns) ** 2, (clipped - returns) ** 2)
    got = value_loss(*(torch.tensor(x) for x in (new, old, returns)), 0.2)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)


def test_the_score_lands_on_the_last_response_token() -> None:
    mask = torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0]])
    kl = torch.full((2, 4), 0.5)
    rewards = token_rewards(torch.tensor([2.0, -1.0]), kl, mask, kl_coef=0.1)
    expected = torch.tensor([[-0.05, -0.05, 1.95, 0], [-1.05, 0, 0, 0]])
    torch.testing.assert_close(rewards, expected)


# ---- invariants ----


def test_kl_is_zero_and_ratio_is_one_before_the_first_step(tokenizer, tmp_path: Path) -> None:
    trainer = trainer_of(tokenizer, tmp_path)
    first = updates(train(trainer))[0]
    assert first["objective/kl"] == 0.0
    assert first["objective/non_score_reward"] == 0.0
    assert first["val/first_ratio_error"] == 0.0


def test_the_first_ratio_stays_one_after_updates(tokenizer, tmp_path: Path) -> None:
    rows = updates(train(trainer_of(tokenizer, tmp_path, num_updates=3)))
    assert [row["val/first_ratio_error"] for row in rows] == [0.0, 0.0, 0.0]
    assert rows[-1]["objective/kl"] != 0.0


def test_optimiser_steps_are_mini_batches_times_epochs(tokenizer, tmp_path: Path) -> None:
    class Count(TrainerCallback):
        steps = 0

        def on_optimizer_step(self, *args, **kwargs):
            self.steps += 1

    count = Count()
    train(trainer_of(tokenizer, tmp_path, micro_batch_tokens=1, callbacks=[count]))
    assert count.steps == 2 * 2 * 2  # updates, epochs, mini-batches: micro-batches do not step


def test_gradients_do_not_depend_on_the_micro_batches(tokenizer, tmp_path: Path) -> None:
    settings = {"num_mini_batches": 1}
    whole = gradient_of(trainer_of(tokenizer, tmp_path / "1", micro_batch_tokens=10_000, **settings))
    assert whole.abs().max() > 1e-3
    for tokens in (1, 40):
        parts = gradient_of(
            trainer_of(tokenizer, tmp_path / str(tokens), micro_batch_tokens=tokens, **settings)
        )
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)


def cost_of(groups: list[list[int]], lengths: list[int], overhead: int) -> int:
    return sum(len(group) * max(lengths[i] for i in group) + overhead for group in groups)


@pytest.mark.parametrize("overhead", [0, 3, 20, 1000])
def test_micro_batches_cost_as_little_as_any_grouping_of_like_lengths(overhead: int) -> None:
    rng, budget = np.random.default_rng(overhead), 60
    for n in (1, 2, 9):
        lengths = [int(x) for x in rng.integers(1, 40, n)] + [70]  # the last alone is above the budget
        order = sorted(range(n + 1), key=lambda i: -lengths[i])
        best = min(
            cost
            for cuts in itertools.product([False, True], repeat=n)
            for groups in [np.split(np.array(order), [i + 1 for i in range(n) if cuts[i]])]
            if all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= budget for g in groups)
            for cost in [cost_of([list(g) for g in groups], lengths, overhead)]
        )
        groups = token_batches(lengths, budget, overhead)
        assert sorted(itertools.chain(*groups)) == list(range(n + 1))
        assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= budget for g in groups)
        assert cost_of(groups, lengths, overhead) == best
        assert best <= cost_of(token_batches(lengths, budget), lengths, overhead)


def test_the_cost_of_a_micro_batch_changes_neither_gradients_nor_first_ratio(tokenizer, tmp_path) -> None:
    settings = {"num_mini_batches": 1, "micro_batch_tokens": 10_000}
    trainer = trainer_of(tokenizer, tmp_path / "whole", **settings)
    assert trainer.order.overhead is None  # so narrow a model wants micro-batches few and full
    whole = gradient_of(trainer)
    trainer = trainer_of(tokenizer, tmp_path / "parts", **settings)
    trainer.order.overhead = 0
    parts = gradient_of(trainer)
    rows = trainer.rollout.rows
    lengths = [len(row) for row in rows]
    groups = trainer.order.micro_batches(range(len(rows)), lengths)
    assert len(groups) == len(set(lengths)) > 1
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)
    assert trainer.sums.metrics(mini_batches=1, ptx=False)["val/first_ratio_error"] == 0


def test_log_probabilities_and_values_do_not_depend_on_padding(tokenizer) -> None:
    model = tiny(tokenizer).eval()
    value = tiny(tokenizer, LlamaForSequenceClassification, seed=1, num_labels=1).eval()
    row, longer = tokenizer([PROMPTS[3] + " yes no red", PROMPTS[0] + " one two three yes no yes no red"])[
        "input_ids"
    ]
    start = len(row) - 3
    alone = batch_of([row], [start], tokenizer.pad_token_id)
    padded = batch_of([row, longer], [start, 3], tokenizer.pad_token_id)
    with torch.no_grad():
        for read in (
            lambda batch: response_logprobs(model, batch, 0.7)[0],
            lambda batch: head_scores(value, hidden_states(value, batch.ids, batch.before)),
        ):
            torch.testing.assert_close(read(padded)[:3], read(alone), atol=1e-5, rtol=1e-5)


def test_log_probabilities_are_those_of_the_tempered_distribution(tokenizer) -> None:
    model = tiny(tokenizer).eval()
    ids = tokenizer(PROMPTS[0] + " yes no")["input_ids"]
    batch = batch_of([ids], [len(ids) - 2], tokenizer.pad_token_id)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits.double() / 0.5
        got, entropy = response_logprobs(model, batch, 0.5, with_entropy=True)
    probabilities = logits.softmax(-1)[0]
    for place, token in ((-1, ids[-1]), (-2, ids[-2])):
        p = probabilities[place - 1]
        assert got[place].item() == pytest.approx(math.log(p[token]), abs=1e-5)
        assert entropy[place].item() == pytest.approx(float(-(p * p.log()).sum()), abs=1e-5)


def test_a_response_without_eos_gets_the_missing_eos_score(tokenizer, tmp_path: Path) -> None:
    trainer = trainer_of(
        tokenizer,
        tmp_path,
        reward=lambda prompts, outputs: [5.0] * len(outputs),
        response_length=1,
        missing_eos=-1.0,
    )
    rollout = trainer.roll_out(0)
    eos = torch.tensor([row[-1] == tokenizer.eos_token_id for row in rollout.rows])
    # At update 0 the KL is zero: the return of a one-token episode is its score.
    torch.testing.assert_close(rollout.returns[:, 0], torch.where(eos, 5.0, -1.0))


def test_every_pass_over_the_prompts_is_a_fresh_permutation(tokenizer, tmp_path: Path) -> None:
    trainer = trainer_of(tokenizer, tmp_path)
    per_pass = len(PROMPTS) // 16
    passes = [
        [index for i in range(per_pass) for index in trainer.order.prompts_of(p * per_pass + i)]
        for p in range(2)
    ]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(len(PROMPTS)))
    assert passes[0] != passes[1]


def test_ppo_reaches_the_optimum_of_a_toy_task(tokenizer, tmp_path: Path) -> None:
    def says_yes(prompts: list[str], outputs: list[str]) -> list[float]:
        return [float(output.strip() == "yes") for output in outputs]

    trainer = trainer_of(
        tokenizer,
        tmp_path,
        reward=says_yes,
        num_updates=60,
        batch_size=64,
        micro_batch_tokens=10_000,
        lr_scheduler_type="linear",
        num_mini_batches=1,
        num_ppo_epochs=4,
        response_length=3,
        learning_rate=5e-3,
        kl_coef=0.0,
        missing_eos=0.0,
        save_updates=1000,
    )
    rows = updates(train(trainer))
    assert rows[0]["objective/scores"] < 0.2
    assert np.mean([row["objective/scores"] for row in rows[-5:]]) > 0.95


def test_a_high_kl_coefficient_keeps_the_policy_near_the_reference(tokenizer, tmp_path: Path) -> None:
    kls = {}
    for coefficient in (0.0, 5.0):
        rows = updates(
            train(
                trainer_of(
                    tokenizer,
                    tmp_path / str(coefficient),
                    num_updates=12,
                    kl_coef=coefficient,
                    learning_rate=5e-3,
                )
            )
        )
        kls[coefficient] = abs(np.mean([row["objective/kl"] for row in rows[-3:]]))
    assert kls[5.0] < kls[0.0] / 2


# ---- resume ----


def test_a_killed_run_goes_on_to_the_same_bits(tokenizer, tmp_path: Path) -> None:
    whole = trainer_of(tokenizer, tmp_path / "whole", num_updates=4)
    curve = train(whole)
    with pytest.raises(KeyboardInterrupt):  # in the middle of the third update
        train(trainer_of(tokenizer, tmp_path / "cut", num_updates=4, callbacks=[Stop(10)]))
    resumed = trainer_of(tokenizer, tmp_path / "cut", num_updates=4)
    again = train(resumed)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    optimiser, other = whole.optimizer.state_dict(), resumed.optimizer.state_dict()
    for index, state in optimiser["state"].items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other["state"][index][key]))
    assert again == curve


def test_a_torn_checkpoint_is_passed_over(tokenizer, tmp_path: Path) -> None:
    whole = train(trainer_of(tokenizer, tmp_path, num_updates=3))
    newest = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    (newest / "optimizer.pt").write_bytes(b"torn")
    (tmp_path / ".writing").mkdir()
    newest.rename(tmp_path / ".writing" / newest.name)  # as a process killed while writing leaves it
    assert train(trainer_of(tokenizer, tmp_path, num_updates=3)) == whole


# ---- bad settings end early ----


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 10, "num_mini_batches": 4}, "not divisible by num_mini_batches"),
        ({"kl_estimator": "k4"}, "use k1, k2, k3"),
        ({"response_length": 40}, "no room for a prompt"),
    ],
)
def test_bad_settings_are_refused(tokenizer, tmp_path: Path, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_of(tokenizer, tmp_path, **settings)


def test_pad_equal_to_eos_is_refused(tokenizer, tmp_path: Path) -> None:
    same = copy.deepcopy(tokenizer)
    same.pad_token = same.eos_token
    with pytest.raises(ValueError, match="differs from its EOS"):
        trainer_of(same, tmp_path)


def test_a_reward_model_of_the_wrong_shape_is_refused(tokenizer, tmp_path: Path) -> None:
    two = tiny(tokenizer, LlamaForSequenceClassification, num_labels=2)
    with pytest.raises(
        ValueError, match="with 2 labels; it must be a sequence-classification model with one"
    ):
        trainer_of(tokenizer, tmp_path, reward=two)


def test_a_reward_that_is_not_a_number_stops_with_the_prompt(tokenizer, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"update 0: the reward <lambda> is nan for the prompt .* there is no checkpoint"
    ):
        train(trainer_of(tokenizer, tmp_path, reward=lambda prompts, outputs: [math.nan] * len(outputs)))
