"""Evaluation snapshots: when they are taken, what they measure, and that training does not notice them."""

import pytest
import torch
from tiny_ppo import PROMPTS, Stop, tiny, trainer_of, words_tokenizer
from transformers import LlamaForSequenceClassification

from rlhf.data.contracts import SNAPSHOT
from rlhf.data.errors import DataError
from rlhf.data.table import read_table
from rlhf.models.reward_model import RewardModel, score
from rlhf.models.template import as_row
from rlhf.rl.snapshots import Snapshots, collect_snapshots
from rlhf.training.loop import train

ROWS = [{"prompt": prompt, "completion": " red", "source": "test"} for prompt in PROMPTS[:6]]
ROWS[0]["messages"] = [{"role": "user", "content": PROMPTS[0]}]


def run(folder, every=2, stop=None, take=True, best_of=1, **settings):
    tokenizer = words_tokenizer()
    trainer = trainer_of(
        tokenizer, folder / "run", num_updates=3, num_mini_batches=1, num_ppo_epochs=1, **settings
    )
    reward = RewardModel(tiny(tokenizer, LlamaForSequenceClassification, seed=1, num_labels=1), tokenizer)
    if take:
        trainer.add_callback(Snapshots(trainer, reward, ROWS, folder / "snapshots", every, best_of))
    if stop:
        trainer.add_callback(Stop(stop))
    try:
        train(trainer)
    except KeyboardInterrupt:
        pass
    else:
        collect_snapshots(folder / "snapshots", folder / "all.parquet")
    return trainer, reward


def test_snapshots_are_taken_at_the_start_every_few_updates_and_at_the_end(tmp_path):
    trainer, reward = run(tmp_path)
    rows = read_table(tmp_path / "all.parquet", SNAPSHOT)
    assert [row["update"] for row in rows[::6]] == [0, 2, 3]
    assert [row["prompt"] for row in rows[:6]] == PROMPTS[:6]
    assert [row["messages"] for row in rows] == [row.get("messages") for row in ROWS] * 3
    outputs = [row["output"] for row in rows]
    assert [row["score"] for row in rows] == pytest.approx(score(reward, rows, outputs), abs=1e-5)
    assert [row["kl"] for row in rows[:6]] == [0.0] * 6  # the policy is still the one it started as
    assert any(row["kl"] != 0 for row in rows[6:])
    assert trainer.networks.policy is not trainer.roles.reference


def test_training_does_not_notice_and_a_killed_run_has_the_same_snapshots(tmp_path):
    def weights(trainer):
        return torch.cat([p.flatten() for p in trainer.networks.parameters()])

    plain, _ = run(tmp_path / "plain", take=False)
    whole, _ = run(tmp_path / "whole")
    assert torch.equal(weights(plain), weights(whole))
    run(tmp_path / "killed", stop=2)
    run(tmp_path / "killed")
    tables = [(tmp_path / name / "all.parquet").read_bytes() for name in ("whole", "killed")]
    assert tables[0] == tables[1]


def test_without_adapters_at_work_the_reference_is_the_start(tmp_path):
    from peft import LoraConfig

    lora = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear")
    trainer, _ = run(tmp_path, more={"peft_config": lora}, learning_rate=0.05)
    rows = read_table(tmp_path / "all.parquet", SNAPSHOT)
    assert [row["kl"] for row in rows[:6]] == pytest.approx([0.0] * 6, abs=1e-6)
    assert max(abs(row["kl"]) for row in rows[6:]) > 1e-3
    assert trainer.networks.policy is trainer.roles.reference


def test_best_of_n_of_the_start_has_rising_scores_and_the_kl_of_its_n(tmp_path):
    _, reward = run(tmp_path, best_of=5)
    rows = read_table(tmp_path / "all.parquet", SNAPSHOT)
    rows_of = {n: [row for row in rows if row["n"] == n and row["update"] == 0] for n in (1, 2, 4)}
    assert {row["n"] for row in rows} == {1, 2, 4}
    assert {row["update"] for row in rows if row["n"] > 1} == {0}
    for n, kl in ((2, 0.1931), (4, 0.6363)):
        assert [row["prompt"] for row in rows_of[n]] == PROMPTS[:6]
        assert [row["kl"] for row in rows_of[n]] == pytest.approx([kl] * 6, abs=1e-4)
        outputs = [row["output"] for row in rows_of[n]]
        scores = score(reward, [as_row(text) for text in PROMPTS[:6]], outputs)
        assert [row["score"] for row in rows_of[n]] == pytest.approx(scores, abs=1e-5)
        assert all(a["score"] >= b["score"] for a, b in zip(rows_of[n], rows_of[n // 2], strict=True))
    assert any(a["score"] > b["score"] for a, b in zip(rows_of[4], rows_of[1], strict=True))


def test_no_snapshots_are_an_empty_table(tmp_path):
    collect_snapshots(tmp_path / "none", tmp_path / "all.parquet")
    assert read_table(tmp_path / "all.parquet", SNAPSHOT) == []


def test_what_is_not_finite_in_a_snapshot_stops_the_training_and_is_not_written(tmp_path):
    with pytest.raises(DataError, match=r"the KL to the start is (nan|inf) at step 2, learning rate \S+: .*"):
        run(tmp_path, every=1, learning_rate=1e38)
    assert [path.name for path in (tmp_path / "snapshots").glob("*")] == ["0000000.parquet"]
