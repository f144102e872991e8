"""PPO's options from params.yaml: the stage `ppo` on the built-in task, at a small size."""

from __future__ import annotations

import csv
import json
import math
import re
import runpy
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import ROOT, Workspace
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForSequenceClassification

from rlhf.data.contracts import DEMONSTRATION, GOLD, SNAPSHOT
from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json
from rlhf.data.table import read_table
from rlhf.models.policy import Policy, load_policy, save_model
from rlhf.models.reward_model import load_reward, score
from rlhf.models.scratch import new_model, train_tokenizer
from rlhf.models.settled import Settled
from rlhf.models.template import as_row
from rlhf.rl.advantages import adapted_kl_coef
from rlhf.world.gold import gold_score
from rlhf.world.panel import Panel
from tasks import ppo as stage
from tasks.runtime.stage import execute

pytestmark = pytest.mark.slow

Curve = list[dict[str, float]]
DEMONSTRATIONS = "data/prepared/demonstrations.parquet"
DOCUMENT = ROOT / "docs/ppo.md"
PROGRESS = "progress.jsonl"
BEFORE = ("ingest", "prepare", "base", "sft", "collect", "reward")


@pytest.fixture(scope="module")
def inputs(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the stages before `ppo` have run; they take longer than the tests."""
    path = tmp_path_factory.mktemp("inputs") / "project"
    shutil.copytree(project, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("RLHF_PROGRESS", str(path / PROGRESS))
        for stage in BEFORE:
            Workspace(path).stage(stage)
    return path


@pytest.fixture
def ready(inputs: Path, workspace: Workspace) -> Workspace:
    """The workspace with the inputs of `ppo`."""
    for folder in ("data", "models"):
        shutil.copytree(inputs / folder, workspace.path / folder, dirs_exist_ok=True)
    return workspace


def ppo(ready: Workspace, **changes: object) -> Curve:
    """Run the stage with other parameters of `ppo`; returns plots/ppo.csv."""
    ready.set({f"ppo.{name}": value for name, value in changes.items()})
    shutil.rmtree("checkpoints", ignore_errors=True)  # outside tests, other parameters have other checkpoints
    ready.stage("ppo")
    return curve()


def curve() -> Curve:
    with Path("plots/ppo.csv").open() as handle:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(handle)]


def weights(name: str) -> dict[str, torch.Tensor]:
    return load_file(f"models/{name}/model.safetensors")


def changed() -> set[str]:
    """Names of the weights in which models/ppo differs from models/sft."""
    before, after = weights("sft"), weights("ppo")
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


# ---- options ----


def test_a_users_reward_model_on_another_tokenizer_reads_the_text(ready: Workspace) -> None:
    """The policy's ids mean nothing to a byte-level model, so its scores must be those of the texts."""
    with pytest.raises(DataError, match="data/reward-model: no reward model here"):
        ppo(ready, reward_model="given")
    texts = [row["prompt"] + row["completion"] for row in read_table(DEMONSTRATIONS, DEMONSTRATION)]
    tokenizer = train_tokenizer(texts[:200], "bpe", 400)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, num_labels=1
    )
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        model.score.weight *= 20  # scores that can be told apart
    model.save_pretrained("data/reward-model")
    tokenizer.save_pretrained("data/reward-model")

    rows = ppo(ready, reward_model="given", snapshot_every=1)
    assert changed()
    snapshots = pd.read_parquet("data/snapshots/snapshots.parquet")
    reward = load_reward("data/reward-model")
    assert reward.tokenizer.get_vocab() != load_policy("models/sft").tokenizer.get_vocab()
    scores = score(reward, [as_row(text) for text in snapshots["prompt"]], list(snapshots["output"]))
    assert list(snapshots["score"]) == pytest.approx(scores, abs=1e-4)
    assert all(math.isfinite(row["objective/scores"]) for row in rows)


def test_frozen_layers_of_the_policy_are_those_of_the_sft_policy(ready: Workspace) -> None:
    ppo(ready, freeze_layers=1)
    frozen = changed()
    assert frozen
    assert not any("embed_tokens" in name or "layers.0." in name for name in frozen)
    ppo(ready, freeze_layers=0)
    assert {name for name in changed() - frozen if "norm" not in name} == {
        name
        for name in weights("sft")
        if ("embed_tokens" in name or "layers.0." in name) and "norm" not in name
    }


def test_with_lora_all_roles_are_adapters_on_the_base(ready: Workspace, monkeypatch) -> None:
    """Policy, reference, value, reward and judge: the base's weights are read once."""
    ready.set({"base.lora": {"rank": 4}})
    for name in ("sft", "reward"):
        ready.stage(name)
    shutil.rmtree("models/judge")
    shutil.copytree("models/reward", "models/judge")
    believed = {"kind": "model", "name": "reward-model", "trust": {"decides": True, "reason": "it passed"}}
    write_json("models/judge/judge.json", believed)

    def refuse(folder: Any) -> None:
        raise AssertionError(f"{folder} is loaded with a base of its own")

    base = Path("models/pretrained/model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(stage, "load_reward", refuse)
        rows = ppo(ready, learning_rate=5e-3, snapshot_every=1)
    assert rows[0]["objective/kl"] == 0
    assert rows[-1]["objective/kl"] != 0
    findings = read_json("metrics/ppo.json")["held_out"]
    assert len(findings["looks"]) == len(rows) + 1
    assert Path("models/pretrained/model.safetensors").read_bytes() == base
    for name in ("sft", "reward", "ppo"):
        assert read_json(f"models/{name}/policy.json")["base"]["path"] == "../pretrained"
        assert not Path(f"models/{name}/model.safetensors").exists()
    before, after = (load_file(f"models/{name}/adapter_model.safetensors") for name in ("sft", "ppo"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before) == (findings["kept"] > 0)
    # The snapshots were scored by adapters and a head as the reward model that they are saved as would.
    snapshots = read_table("data/snapshots/snapshots.parquet", SNAPSHOT)
    scores = score(load_reward("models/reward"), snapshots, [row["output"] for row in snapshots])
    assert [row["score"] for row in snapshots] == pytest.approx(scores, abs=1e-4)


def test_ptx_trains_on_the_demonstrations_too(ready: Workspace) -> None:
    rows = ppo(ready, ptx_coef=10.0, ptx_batch_size=8, updates=6)
    losses = [row["loss/ptx_avg"] for row in rows]
    assert all(0 < loss < math.log(1024) for loss in losses)  # nats a token, of 1,024 words at most
    assert sum(losses[-2:]) < sum(losses[:2])
    assert "loss/ptx_avg" not in ppo(ready, ptx_coef=0.0, updates=1)[0]


@pytest.mark.parametrize(("kind", "whole"), [("plain", [True, False]), ("chat", [False, False])])
def test_ptx_reads_demonstrations_as_sft_did(kind: str, whole: list[bool]) -> None:
    """As whole texts, as in pretraining, only where a plain prompt is no turn."""
    tokenizer = train_tokenizer(["one two three"], "word", 300, chatml=True)
    policy = Policy(new_model("0.1M", tokenizer, 64), tokenizer, settled=Settled(template=kind))
    talk = [{"role": "user", "content": "one"}]
    rows = [
        {"prompt": "one", "messages": messages, "completion": " two", "split": split}
        for split in ("train", "test")
        for messages in (None, talk)
    ]
    assert [item == "one two" for item in stage.ptx_of(policy, rows)] == whole


def test_the_kl_coefficient_follows_its_target(ready: Workspace) -> None:
    rows = ppo(ready, kl_target=0.01, kl_horizon=100, updates=4)
    assert rows[0]["objective/kl_coef"] == 0.05
    for now, following in pairwise(rows):
        expected = adapted_kl_coef(now["objective/kl_coef"], now["objective/kl"], 0.01, 16, 100)
        assert following["objective/kl_coef"] == pytest.approx(expected, rel=1e-4)
    assert len({row["objective/kl_coef"] for row in rows}) == 4


def test_rewards_are_combined_by_weight(ready: Workspace) -> None:
    ready.set({"ppo.reward_weight": 0.5})
    for name, value in {
        "length_weight": 0.1,
        "length_target": 6,
        "repetition_weight": 2.0,
        "banned_weight": 3.0,
        "banned_words": ["my"],
    }.items():
        ready.set({f"ppo.reward_functions.{name}": value})
    for row in ppo(ready):
        parts = {name: row[f"rewards/{name}"] for name in ("model", "length", "repetition", "banned_words")}
        assert parts["length"] < 0
        assert "rewards/format" not in row
        total = sum(weight * parts[name] for name, weight in zip(parts, (0.5, 0.1, 2.0, 3.0), strict=True))
        assert row["objective/scores"] == pytest.approx(total, abs=1e-4)


def test_the_snapshot_that_the_judge_prefers_is_kept(ready: Workspace) -> None:
    shutil.rmtree("models/judge")
    shutil.copytree("models/reward", "models/judge")  # this judge prefers what the reward raises
    believed = {"kind": "model", "name": "reward-model", "trust": {"decides": True, "reason": "it passed"}}
    write_json("models/judge/judge.json", believed)
    rows = ppo(ready, snapshot_every=1, updates=3, learning_rate=5e-3)
    findings = read_json("metrics/ppo.json")["held_out"]
    assert [snapshot["update"] for snapshot in findings["looks"]] == [0, 1, 2, 3]
    assert findings["stopped"] is None
    best = max(findings["looks"], key=lambda snapshot: snapshot["rate"])
    assert findings["kept"] == best["update"]
    kept = weights("ppo")
    ppo(ready, judge_tolerance=None)
    assert read_json("metrics/ppo.json")["held_out"] is None
    assert curve() == rows  # judging changes nothing in the training
    last = weights("ppo")
    same = all(torch.equal(kept[name], last[name]) for name in last)
    assert same == (findings["kept"] == 3)


def test_a_judge_that_failed_its_controls_keeps_no_snapshot_and_stops_nothing(
    ready: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("models/judge")
    shutil.copytree("models/reward", "models/judge")
    refused = {"decides": False, "reason": "this judge cannot tell good from random: it is a coin"}
    write_json("models/judge/judge.json", {"kind": "model", "name": "reward-model", "trust": refused})
    ppo(ready, snapshot_every=1, updates=2)
    assert read_json("metrics/ppo.json")["held_out"] is None
    assert "no judge stopped PPO or picked its weights: this judge cannot tell" in capfd.readouterr().out


def test_simulated_experts_judge_the_snapshots_of_the_built_in_task(ready: Workspace) -> None:
    ppo(ready, judge="simulated", snapshot_every=1, updates=1)
    findings = read_json("metrics/ppo.json")["held_out"]
    assert (findings["judge"], findings["stopped"]) == ("simulated experts", None)
    snapshots = read_table("data/snapshots/snapshots.parquet", SNAPSHOT)
    facts = {row["prompt"]: json.loads(row["facts"]) for row in read_table("data/gold/facts.parquet", GOLD)}
    panel, agreed = Panel("data/gold/facts.parquet", 0), []
    clear = [row | {"update": 0} for row in snapshots]
    for row, point in zip(clear, panel(clear), strict=True):
        margin = gold_score(facts[row["prompt"]], row["output"]) - gold_score(
            facts[row["prompt"]], row["reference"]
        )
        if abs(margin) > 1:
            agreed.append(point == float(margin > 0))
    assert len(agreed) > 10
    assert sum(agreed) / len(agreed) > 0.8  # noise of 0.4 a text
    assert panel([clear[0] | {"output": clear[0]["reference"]}]) == [0.5]
    with pytest.raises(DataError, match="the built-in task only"):
        panel([clear[0] | {"prompt": "a post of another world"}])


def test_two_processes_train_as_one_does(ready: Workspace) -> None:
    alone, policy = ppo(ready), weights("ppo")
    ready.set({"processes": 2, "ppo.accelerate": "deploy/accelerate/ddp.yaml"})
    execute("ppo", stage.main)  # its processes log to its MLflow run
    assert len(alone) == 2
    for expected, row in zip(alone, curve(), strict=True):
        assert row == pytest.approx(expected, abs=1e-5, rel=2e-5)
    for name, tensor in weights("ppo").items():
        torch.testing.assert_close(tensor, policy[name], atol=1e-5, rtol=1e-4)


def test_every_training_says_how_far_it_is(inputs: Path, ready: Workspace, monkeypatch) -> None:
    told = Path(PROGRESS)
    monkeypatch.setenv("RLHF_PROGRESS", str(told))
    ppo(ready)
    lines = (inputs / PROGRESS).read_text().splitlines() + told.read_text().splitlines()
    last = {row["stage"]: row for row in map(json.loads, lines)}
    assert list(last) == ["base", "sft", "reward", "ppo"]
    assert all(row["step"] == row["steps"] for row in last.values())
    figures = {name: set(row["figures"]) for name, row in last.items()}
    assert figures["base"] == {"loss"}
    assert figures["sft"] == {"loss"}
    assert figures["reward"] == {"loss", "accuracy"}
    assert figures["ppo"] == {"reward", "KL"}


# ---- bad settings: one line, exit code 1 ----


def error_of(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The error that ends `python -m tasks.ppo`, run in this process because a new interpreter takes long."""
    monkeypatch.setattr(sys, "argv", ["tasks.ppo"])
    monkeypatch.delitem(sys.modules, "tasks.ppo", raising=False)
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        runpy.run_module("tasks.ppo", run_name="__main__", alter_sys=True)
    assert end.value.code == 1
    assert not Path("models/ppo").exists()
    assert not Path("plots/ppo.csv").exists()
    *before, last = capfd.readouterr().err.splitlines()
    assert not any("error:" in line or "Traceback" in line for line in before)
    return last


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 15, "mini_batches": 2}, "ppo.batch_size 15 is not divisible by ppo.mini_batches 2"),
        ({"response_length": 250}, r"prompt 0 has \d+ tokens; .* set max_prompt_length to 6"),
        (
            {"response_length": 256},
            "ppo.response_length is 256 tokens, which leaves no room for a prompt in base.context, 256",
        ),
        ({"reward_functions.banned_weight": 1.0}, "banned_weight is above 0 and banned_words names no words"),
        (
            {"reward_functions.format_weight": 1.0, "reward_functions.format_pattern": "("},
            "ppo.reward_functions.format_pattern: .*it is no regular expression .*, got '\\('",
        ),
        (
            {"stop_tokens": ["zebra crossing"]},
            "the stop token 'zebra crossing' is .* it must be one it knows",
        ),
        ({"freeze_layers": 9}, "freeze_layers is 9; the model has 2 layers"),
        ({"kl_coef": -1}, "kl_coef"),
    ],
)
def test_bad_settings_end_in_one_line(ready: Workspace, capfd, monkeypatch, changes, message) -> None:
    ready.set({f"ppo.{name}": value for name, value in changes.items()})
    error = error_of(capfd, monkeypatch)
    assert re.fullmatch(f"error: .*{message}.*", error), error


def test_a_reward_that_is_not_a_number_ends_in_one_line(ready: Workspace, capfd, monkeypatch) -> None:
    reward = load_reward("models/reward")
    with torch.no_grad():
        reward.model.score.weight *= math.nan
    save_model(reward, "models/reward")
    error = error_of(capfd, monkeypatch)
    pattern = (
        "error: update 0: the reward model is nan for the prompt .* there is no checkpoint to go back to"
    )
    assert re.fullmatch(pattern, error), error


# ---- docs/ppo.md ----


def test_the_twenty_lines_of_the_document_run(ready: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    snippet = DOCUMENT.read_text().split("```python\n")[1].split("```")[0]
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 20
    exec(compile(snippet, str(DOCUMENT), "exec"), {"__name__": "snippet"})
    shown = [line for line in capfd.readouterr().out.splitlines() if re.match(r"\d+\.0 ", line)]
    assert [line.split()[0] for line in shown] == ["1.0", "2.0", "3.0", "4.0"]
    assert Path("models/try/model.safetensors").exists()


def test_the_document_explains_every_metric_and_no_other(ready: Workspace) -> None:
    ready.set({"ppo.reward_functions.length_weight": 0.1})
    logged = {re.sub("^rewards/.*", "rewards/<name>", name) for name in ppo(ready, ptx_coef=1.0)[0]}
    section = DOCUMENT.read_text().split("## What the log says")[1].split("\n## ")[0]
    names = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {name for cell in names for name in re.findall("`(.+?)`", cell)} == logged - {"step"}


def test_the_final_kl_is_not_negative_and_other_figures_are_means_of_the_last_updates() -> None:
    names = ("objective/scores", "objective/kl", "objective/entropy", "val/response_length", "val/eos_share")
    rows = [dict.fromkeys(names, str(value)) for value in [5.0] * 18 + [-0.02, 0.01]]
    figures = stage.final_figures(rows)
    assert figures["objective/kl"] == 0.0
    assert figures["objective/scores"] == pytest.approx(-0.005)
    assert stage.final_figures(rows[:10])["objective/kl"] == 5.0
