"""Tokenizers, generation, SFT, pretraining, and resume of every training."""

# pytest finds the fixture `base` by the name of an argument:
# ruff: noqa: F401, F811

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from small_base import COMPARISONS, DEMONSTRATIONS, PROMPTS, base, reward_settings
from tiny_ppo import Stop
from torch import nn
from transformers import TrainerCallback

from rlhf.compute import deterministic
from rlhf.data.errors import DataError
from rlhf.models.batches import batch_of
from rlhf.models.logprobs import mean_kl, response_logprobs
from rlhf.models.policy import Policy, load_policy
from rlhf.models.reward_model import reward_from_policy
from rlhf.models.sampling import generate
from rlhf.models.scratch import SIZES, new_model, train_tokenizer
from rlhf.models.template import as_row
from rlhf.training import loop as training
from rlhf.training.checkpoints import last_checkpoint
from rlhf.training.curves import final_loss
from rlhf.training.optimizer import Muon, MuonAdamW
from rlhf.training.order import reading_order
from rlhf.training.pretrain import pieces, pretrain
from rlhf.training.reward import accuracy, train_reward
from rlhf.training.sft import answered_turns, examples, sft, validation_loss

ROWS = [as_row(text) for text in PROMPTS]


# ---- tokenizers and generation ----


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_tokenizers_give_the_text_back(kind: str) -> None:
    text = "SUBREDDIT: r/advice\nTITLE: my sister anna, it's me\nPOST: she lost it. why?\nTL;DR: lost."
    tokenizer = train_tokenizer([text], kind, 400)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token_id != tokenizer.pad_token_id


def test_bpe_reads_any_text_and_words_become_unknown() -> None:
    odd = "naïve 🦜 ≠ x"
    bpe = train_tokenizer(["plain"], "bpe", 300)
    assert bpe.decode(bpe(odd)["input_ids"]) == odd
    word = train_tokenizer(["plain"], "word", 300)
    assert word.unk_token_id in word(odd)["input_ids"]


def test_the_ladder_grows_and_names_its_size(base: Path) -> None:
    tokenizer = load_policy(base).tokenizer
    counts = [new_model(size, tokenizer, 256).num_parameters() for size in SIZES]
    assert len(counts) >= 4
    assert all(b > a for a, b in itertools.pairwise(counts))
    for size, count in zip(SIZES, counts, strict=True):
        assert count == pytest.approx(1e6 * float(size.removesuffix("M")), rel=0.25), size
    with pytest.raises(ValueError, match="unknown model size '7B'"):
        new_model("7B", tokenizer, 256)


def test_generation_repeats_by_seed_and_stops_at_eos(base: Path) -> None:
    policy = load_policy(base)
    once, again, other = (
        generate(policy, ROWS[:20], temperature=1.0, max_new_tokens=6, seed=s) for s in (1, 1, 2)
    )
    assert once == again
    assert once != other
    assert not any("<eos>" in text or "<pad>" in text for text in once)


def test_kl_of_a_policy_to_itself_is_zero_and_to_another_is_not(base: Path) -> None:
    policy, other = load_policy(base), load_policy(base)
    outputs = generate(policy, ROWS[:8], temperature=1.0, max_new_tokens=6, seed=0)
    assert mean_kl(policy, other, ROWS[:8], outputs, temperature=1.0) == 0.0
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(1.3)
    assert mean_kl(policy, other, ROWS[:8], outputs, temperature=1.0) > 0.01


def test_kl_is_that_of_whole_distributions_and_never_negative(base: Path) -> None:
    policy, other = load_policy(base), load_policy(base)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(1.02)  # so near that the sampled tokens alone often say less than 0
    seen = []
    for seed in range(10):
        [output] = generate(policy, ROWS[:1], temperature=1.0, max_new_tokens=6, seed=seed)
        seen.append(mean_kl(policy, other, ROWS[:1], [output], temperature=1.0))
    assert min(seen) > 0
    tokenizer = policy.tokenizer
    ids = tokenizer(PROMPTS[0] + output, add_special_tokens=False)["input_ids"]
    start = len(tokenizer(PROMPTS[0], add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        ours, theirs = (
            m.model(torch.tensor([ids])).logits[0, start - 1 :].log_softmax(-1) for m in (policy, other)
        )
    assert seen[-1] == pytest.approx(float((ours.exp() * (ours - theirs)).sum()), rel=1e-3)


# ---- supervised fine-tuning ----


def test_the_loss_falls_on_the_completion_and_its_eos_only(base: Path) -> None:
    policy = load_policy(base)
    row = DEMONSTRATIONS[1]
    encoded = examples(policy, [row])
    ids, labels = encoded["input_ids"][0], encoded["labels"][0]
    learned = [i for i, label in zip(ids, labels, strict=True) if label != -100]
    assert policy.tokenizer.decode(learned[:-1]) == row["completion"]
    assert learned[-1] == policy.tokenizer.eos_token_id
    assert policy.tokenizer.decode(ids) == row["prompt"] + row["completion"] + "<eos>"


def test_each_assistant_turn_that_answers_somebody_is_a_demonstration() -> None:
    said = [
        ("assistant", "Hi."),
        ("user", "One?"),
        ("assistant", "Yes."),
        ("assistant", "So."),
        ("user", "Two?"),
    ]
    messages = [{"role": role, "content": text} for role, text in said]
    turns = answered_turns({"messages": messages, "completion": "No."})
    assert [(turn["messages"], turn["completion"]) for turn in turns] == [
        (messages[:2], "Yes."),
        (messages, "No."),
    ]


def test_a_long_prompt_loses_its_start_and_keeps_the_completion(base: Path) -> None:
    policy = load_policy(base)
    row = {"prompt": "red " * 200 + "\nTL;DR:", "completion": " blue.", "split": "train"}
    ids = examples(policy, [row])["input_ids"][0]
    assert len(ids) == 48
    assert policy.tokenizer.decode(ids).endswith("\nTL;DR: blue.<eos>")


def test_sft_learns_to_copy(base: Path, tmp_path: Path) -> None:
    deterministic(0, 1)
    policy = load_policy(base)
    before = validation_loss(policy, DEMONSTRATIONS)
    sft(
        policy,
        DEMONSTRATIONS,
        checkpoints=tmp_path,
        seed=0,
        epochs=12,
        batch_size=8,
        learning_rate=3e-3,
        save_every=1000,
    )
    assert validation_loss(policy, DEMONSTRATIONS) < before / 2


def test_no_demonstration_is_one_line(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no demonstrations of split 'train'"):
        sft(
            load_policy(base),
            [],
            checkpoints=tmp_path,
            seed=0,
            epochs=1,
            batch_size=8,
            learning_rate=1e-3,
            save_every=10,
        )


# ---- pretraining and resume ----


def test_a_long_text_becomes_pieces_and_none_is_lost(base: Path) -> None:
    tokenizer = load_policy(base).tokenizer
    text = " and" * 150
    rows = pieces(tokenizer, iter([text, " and"]), 48)
    assert max(map(len, rows)) == 48
    assert tokenizer.decode([i for row in rows for i in row]) == text + "<eos> and<eos>"
    with pytest.raises(DataError, match="the corpus is empty"):
        pieces(tokenizer, [], 48)


def test_muon_of_all_matrices_of_a_shape_at_once_steps_like_the_librarys() -> None:
    torch.manual_seed(0)
    shapes = [(16, 16), (48, 16), (16, 48), (16, 16), (48, 16), (10, 12)]
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = copy.deepcopy(ours)
    optimisers = [
        kind(params, lr=0.02, weight_decay=0.01)
        for kind, params in ((Muon, ours), (torch.optim.Muon, theirs))
    ]
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, atol=1e-3, rtol=0)  # bfloat16; a step is about .005 an element
    states = [optimiser.state_dict() for optimiser in optimisers]
    assert states[0]["param_groups"] == states[1]["param_groups"]


def test_muon_takes_the_hidden_matrices_and_its_state_comes_back(base: Path) -> None:
    model = load_policy(base).model
    build = lambda: MuonAdamW(model, muon_lr=0.02, adamw_lr=1e-3, weight_decay=0.01)  # noqa: E731
    optimiser = build()
    muon = {id(p) for group in optimiser.parts[0].param_groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in muon}
    assert names == {n for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n}
    ids = torch.arange(12).reshape(1, -1)
    model(input_ids=ids, labels=ids).loss.backward()
    optimiser.step()
    other = build()
    other.load_state_dict(optimiser.state_dict())
    other.param_groups[0]["lr"] = 0.5  # what a scheduler writes must reach the part that steps
    assert other.parts[0].param_groups[0]["lr"] == 0.5
    before, after = (
        [state["momentum_buffer"] for state in o.parts[0].state_dict()["state"].values()]
        for o in (optimiser, other)
    )
    assert before
    assert all(map(torch.equal, before, after))


def run_pretrain(base: Path, folder: Path):
    policy = load_policy(base)
    texts = [d["prompt"] for d in DEMONSTRATIONS]
    settings = {
        "steps": 12,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "muon_learning_rate": 0.02,
        "save_every": 4,
    }
    curve = pretrain(policy, texts, checkpoints=folder, seed=0, **settings)
    return policy.model, curve


def run_sft(base: Path, folder: Path):
    policy = load_policy(base)
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "save_every": 4}
    return policy.model, sft(policy, DEMONSTRATIONS, checkpoints=folder, seed=0, **settings)


def run_reward(base: Path, folder: Path):
    reward = reward_from_policy(base, 0)
    return reward.model, train_reward(reward, COMPARISONS, **reward_settings(folder, epochs=2, save_every=4))


@pytest.mark.parametrize("stage", [run_pretrain, run_sft, run_reward])
def test_a_training_cut_off_ends_with_the_same_bits(stage, base: Path, tmp_path: Path, monkeypatch) -> None:
    deterministic(0, 1)
    whole, curve = stage(base, tmp_path / "whole")

    deterministic(0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(training, "CurveLog", lambda c, real=training.CurveLog: _both(real(c), Stop(10)))
        with pytest.raises(KeyboardInterrupt):
            stage(base, tmp_path / "cut")
    assert last_checkpoint(tmp_path / "cut").name == "checkpoint-8"

    deterministic(0, 1)
    resumed, again = stage(base, tmp_path / "cut")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert again == curve


def test_fewer_steps_than_a_log_interval_still_have_a_curve_and_a_loss(base: Path, tmp_path: Path) -> None:
    policy = load_policy(base)
    settings = {"steps": 3, "batch_size": 4, "learning_rate": 3e-3, "muon_learning_rate": 0.02}
    texts = [d["prompt"] for d in DEMONSTRATIONS]
    curve = pretrain(policy, texts, checkpoints=tmp_path, seed=0, save_every=50, **settings)
    assert [row["step"] for row in curve] == [1, 2, 3]
    assert final_loss(curve) == curve[-1]["loss"] > 0
    assert final_loss([]) is None


def test_a_batch_beyond_the_data_reads_all_of_it_once_and_says_so(base: Path, tmp_path: Path, capsys) -> None:
    deterministic(0, 1)
    settings = {"epochs": 2, "batch_size": 400, "learning_rate": 1e-3, "save_every": 1000}
    curve = sft(load_policy(base), DEMONSTRATIONS, checkpoints=tmp_path / "sft", seed=0, **settings)
    assert [row["step"] for row in curve] == [1, 2]
    reward = reward_from_policy(base, 0)
    curve = train_reward(
        reward, COMPARISONS, **reward_settings(tmp_path / "reward", epochs=2, batch_size=400)
    )
    assert [row["step"] for row in curve] == [1, 2]
    said = capsys.readouterr().out
    assert (
        "sft.batch_size is 400, more than there are, 49 examples: lower it to 49; a step reads each" in said
    )
    assert "reward.batch_size is 400, more than there are, 56 examples: lower it to 56; " in said


def test_what_no_row_measures_is_none_and_not_zero(base: Path) -> None:
    policy = load_policy(base)
    assert validation_loss(policy, [row for row in DEMONSTRATIONS if row["split"] == "train"]) is None
    same = [row | {"completions": [" a b", " c d"], "ranking": [1, 2]} for row in COMPARISONS[:2]]
    lengths = accuracy(reward_from_policy(base, 0), same)["all"]
    assert (lengths["prefers_longer"], lengths["labelers_prefer_longer"]) == (None, None)


def _both(bookkeeping: TrainerCallback, stop: TrainerCallback) -> TrainerCallback:
    """The trainer's own bookkeeping with a stop after it."""
    step_end = stop.on_step_end
    bookkeeping.on_step_end = step_end  # type: ignore[method-assign]
    return bookkeeping


def test_the_reading_order_is_passes_of_batches_of_like_length() -> None:
    lengths = [i % 10 for i in range(200)]
    order = reading_order(lengths, batch_size=8, steps=50, seed=3)
    assert order == reading_order(lengths, batch_size=8, steps=50, seed=3)
    assert order != reading_order(lengths, batch_size=8, steps=50, seed=4)
    assert sorted(order[:200]) == sorted(order[200:]) == list(range(200))
    assert order[:200] != order[200:]
    batches = [[lengths[i] for i in order[k : k + 8]] for k in range(0, 400, 8)]
    assert np.mean([max(batch) - min(batch) for batch in batches]) <= 1


def test_log_probabilities_do_not_depend_on_the_batch(base: Path) -> None:
    policy = Policy(load_policy(base).model, load_policy(base).tokenizer)
    rows = policy.tokenizer([p + " red." for p in PROMPTS[:4]] + ["red blue red."])["input_ids"]
    starts = [len(row) - 2 for row in rows]
    with torch.no_grad():
        together, _ = response_logprobs(
            policy.model, batch_of(rows, starts, policy.tokenizer.pad_token_id), 0.7
        )
        last = batch_of(rows[-1:], starts[-1:], policy.tokenizer.pad_token_id)
        alone, _ = response_logprobs(policy.model, last, 0.7)
    torch.testing.assert_close(together[-2:], alone, atol=1e-5, rtol=1e-5)
