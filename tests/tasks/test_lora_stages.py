"""A run with base.lora: the models of all stages are adapters on one base, whoever loads them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import Workspace

from rlhf.data.contracts import COMPARISON, SNAPSHOT
from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json
from rlhf.data.table import read_table, write_table
from rlhf.models.policy import load_policy
from rlhf.models.reward_model import load_reward

FILES = {"adapter_config.json", "adapter_model.safetensors", "policy.json", "tokenizer.json"}


def test_every_stage_reads_and_writes_adapters(workspace: Workspace) -> None:
    lora = {"rank": 4, "alpha": None, "dropout": 0.05, "targets": "auto"}
    workspace.set({"base.lora": lora, "prepare.judge_share": 0.2, "evaluate.judges": ["reward-model"]})
    for stage in ("ingest", "prepare", "base", "sft", "collect", "reward"):
        workspace.stage(stage)
    hash_of_base = read_json("models/pretrained/policy.json")["hash"]
    for name in ("sft", "reward", "judge"):
        folder = Path("models", name)
        assert {file.name for file in folder.iterdir()} >= FILES
        assert not (folder / "model.safetensors").exists()
        base = read_json(folder / "policy.json")["base"]
        assert base == {"path": "../pretrained", "hash": hash_of_base}
    assert read_json("models/judge/judge.json")["kind"] == "model"
    sampled = [row for row in read_table("data/comparisons/comparisons.parquet", COMPARISON)]
    assert any("sft" in row["policies"] for row in sampled)
    figures = read_json("metrics/sft.json")
    assert figures["validation_loss"] < figures["validation_loss_before"]
    assert load_reward("models/reward").model.config.reward_shift != 0

    shutil.copytree("models/sft", "models/ppo")  # what PPO makes of it does not matter here
    write_table("data/snapshots/snapshots.parquet", SNAPSHOT, [])
    write_json("data/snapshots/held-out.json", None)
    workspace.stage("evaluate")
    policies = read_json("metrics/evaluation.json")["policies"]
    assert policies["ppo"]["rate"] == policies["sft"]["rate"]

    shutil.rmtree("models/pretrained")
    with pytest.raises(DataError, match="models/sft: the model that these adapters sit on is missing"):
        load_policy("models/sft")
