"""Early stopping of PPO: what is kept, when a run is stopped, and that a killed run ends the same."""

import pickle
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import torch
from tiny_ppo import PROMPTS, Stop, tiny, trainer_of, words_tokenizer
from transformers import LlamaForSequenceClassification

from rlhf.data.contracts import SNAPSHOT
from rlhf.data.table import read_table
from rlhf.models.reward_model import RewardModel, score
from rlhf.rl.early_stopping import EarlyStopping, ModelJudge
from rlhf.training.loop import train

ROWS = [{"prompt": prompt, "completion": " red", "source": "test"} for prompt in PROMPTS[:40]]
STEPS = 2  # optimiser steps an update


def model(tokenizer, seed):
    return RewardModel(tiny(tokenizer, LlamaForSequenceClassification, seed=seed, num_labels=1), tokenizer)


def run(folder, judge=None, stop=None, updates=6, save=2, curve=None, more=None, **settings):
    tokenizer = words_tokenizer()
    trainer = trainer_of(
        tokenizer,
        folder / "run",
        num_updates=updates,
        num_ppo_epochs=1,
        save_updates=save,
        learning_rate=1e-2,
        kl_coef=0.0,
        missing_eos=None,
        batch_size=32,
        more=more,
        **settings,
    )
    stopping = EarlyStopping(
        trainer,
        model(tokenizer, 1),  # the reward that it is trained on
        ROWS,
        folder / "snapshots",
        1,
        judge=judge or ModelJudge(partial(score, model(tokenizer, 2))),
        tolerance=0.02,
        curve=curve,
    )
    trainer.add_callback(stopping)
    if stop:
        trainer.add_callback(Stop(stop))
    with suppress(KeyboardInterrupt):
        train(trainer)
    return trainer, stopping


class Preferring:
    """A judge that prefers the outputs of snapshot t on a share of the prompts, the same prompts first."""

    name = "test"

    def __init__(self, rates):
        self.rates = rates

    def __call__(self, rows):
        liked = round(self.rates[rows[0]["update"]] * len(rows))
        return [1.0] * liked + [0.0] * (len(rows) - liked)


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.networks.learning_policy().items()}


def test_the_higher_score_is_preferred_and_equal_texts_tie():
    scorer = partial(score, model(words_tokenizer(), 2))
    judge = ModelJudge(scorer)
    outputs = [" red", " red ", " blue two", " green", " one"]
    rows = [
        {**row, "reference": row["completion"], "output": o} for row, o in zip(ROWS, outputs, strict=False)
    ]
    margin = np.subtract(scorer(rows, outputs), scorer(rows, [" red"] * 5))
    assert judge(rows) == [0.5, 0.5, *(margin[2:] > 0).astype(float)]
    assert 0 < sum(judge(rows)[2:]) < 3  # the pairs of this test are told apart


def test_the_best_snapshot_is_kept_and_a_sure_fall_under_a_rising_reward_stops_the_run(tmp_path, monkeypatch):
    at, curve = {}, []
    rates = {0: 0.5, 1: 0.7, 2: 0.6, 3: 0.2, 4: 0.1, 5: 0.0, 6: 0.0}
    trainers = []

    class Judge(Preferring):
        def __call__(self, rows):
            at[rows[0]["update"]] = weights(trainers[0])
            return super().__call__(rows)

    original = EarlyStopping.__init__

    def remember(self, trainer, *args, **kwargs):
        trainers.append(trainer)
        original(self, trainer, *args, **kwargs)

    monkeypatch.setattr(EarlyStopping, "__init__", remember)
    trainer, stopping = run(tmp_path, Judge(rates), curve=lambda values, step: curve.append((step, values)))
    findings = stopping.findings()
    scores = {snapshot["update"]: snapshot["score"] for snapshot in findings["looks"]}
    assert scores[3] > scores[1] > scores[0]  # the reward rises
    assert (findings["kept"], findings["stopped"]) == (1, 3)
    assert trainer.state.global_step == 3 * STEPS
    assert (findings["hacking"]["before"], findings["hacking"]["after"]) == (1, 3)
    assert findings["hacking"]["fall"] == pytest.approx((round(0.7 * 40) - round(0.2 * 40)) / 40)
    assert [(step, values["held_out/preference"]) for step, values in curve] == [
        (update, round(rates[update] * 40) / 40) for update in range(4)
    ]
    rows = read_table(tmp_path / "snapshots/0000003.parquet", SNAPSHOT)
    assert scores[3] == pytest.approx(sum(row["score"] for row in rows) / len(rows))
    stopping.restore()
    now = weights(trainer)
    assert all(torch.equal(now[name], at[1][name]) for name in now)
    assert not all(torch.equal(now[name], at[3][name]) for name in now)
    assert "stopped PPO after update 3: from update 1 to 3" in findings["words"]
    assert "the weights after update 1 are kept" in findings["words"]


@pytest.mark.parametrize("rates", [[0.5, 0.6, 0.7, 0.7], [0.6, 0.59, 0.6, 0.58]])
def test_a_healthy_run_goes_to_its_end(tmp_path, rates):
    trainer, stopping = run(tmp_path, Preferring(rates), updates=3)
    findings = stopping.findings()
    assert trainer.state.global_step == 3 * STEPS
    assert findings["stopped"] is None
    assert findings["kept"] == int(np.argmax(np.round(np.multiply(rates, 40))))
    assert "no reward hacking" in findings["words"]


def state_of(folder):
    last = max((folder / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    files = [*last.iterdir(), *(folder / "snapshots").iterdir()]
    contents = {file.name: file.read_bytes() for file in files if file.name != "training_args.bin"}
    # Not the state of Python's `random`: threads that Prefect's client has left in this process draw from it
    # now and then. kill_ppo.py, which has processes of its own, compares the whole file.
    states = torch.load(last / "rng_state.pth", weights_only=False)
    contents["rng_state.pth"] = states["cpu"].numpy().tobytes() + pickle.dumps(states["numpy"])
    return contents


def test_a_killed_run_keeps_stops_and_saves_the_same(tmp_path):
    rates = [0.5, 0.7, 0.69, 0.68, 0.2, 0.1, 0.1]  # stops at update 4, where a checkpoint was due
    judge = Preferring(rates)
    ends = []
    for name, kills in (("whole", []), ("killed", [3, 7])):
        for stop in kills:
            run(tmp_path / name, judge, stop=stop)
        trainer, stopping = run(tmp_path / name, judge)
        stopping.restore()
        ends.append((trainer.state.global_step, stopping.findings(), weights(trainer)))
    (step, findings, policy), (other_step, other_findings, other_policy) = ends
    assert step == other_step == 4 * STEPS
    assert findings == other_findings
    assert (findings["kept"], findings["stopped"]) == (1, 4)
    assert all(torch.equal(policy[name], other_policy[name]) for name in policy)
    assert state_of(tmp_path / "whole") == state_of(tmp_path / "killed")
    assert {"early_stopping.json", "early_stopping.safetensors"} <= state_of(tmp_path / "whole").keys()


def test_adapters_alone_are_kept(tmp_path):
    from peft import LoraConfig

    lora = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear")
    trainer, stopping = run(
        tmp_path, Preferring([0.5, 0.7, 0.6]), updates=2, more={"peft_config": lora, "value": None}
    )
    assert stopping.kept
    assert all("lora_" in name for name in stopping.kept)
    before = weights(trainer)
    stopping.restore()
    assert any(not torch.equal(before[name], p) for name, p in weights(trainer).items())
