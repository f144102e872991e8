"""Preferences alone are enough for validation and a reward model; what needs references says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Workspace
from own_rows import rankings

from flows.upfront import refuse
from rlhf.data.contracts import CORPUS
from rlhf.data.files import read_json
from rlhf.data.table import read_table
from rlhf.models.policy import load_policy
from rlhf.settings import SettingsError, load_settings
from tasks.runtime.errors import StageError


def test_preferences_alone_train_a_reward_model(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own").mkdir()
    rows = rankings(60) + [
        {"prompt": f"question {i}", "completions": ["good", "so so", "bad"], "ranking": [1, None, 2]}
        for i in range(60, 90)
    ]
    Path("own/comparisons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    workspace.set({"ingest.source": "files", "ingest.path": "own", "collect.labelers": "given"})
    workspace.set({"evaluate.judges": ["human"], "prepare.validation_share": 0.3, "reward.epochs": 8})

    refuse(load_settings(), last="reward")
    with pytest.raises(SettingsError, match="there are no demonstrations, and PPO and the evaluation need"):
        refuse(load_settings(), last="ppo")

    for stage in ("ingest", "prepare", "validate"):
        workspace.stage(stage)
    told = capsys.readouterr().out
    assert "warning: there are no demonstrations" in told
    assert "30 rows name no labeler" in told
    assert len(read_table("data/prepared/corpus.parquet", CORPUS)) == 90  # what people preferred
    for stage in ("base", "sft"):
        workspace.stage(stage)
    assert "the base model is handed on as it is" in capsys.readouterr().out
    base, sft = (dict(load_policy(f"models/{n}").model.named_parameters()) for n in ("pretrained", "sft"))
    assert all((sft[name] == weights).all() for name, weights in base.items())
    for stage in ("collect", "validate-comparisons", "reward"):
        workspace.stage(stage)
    quality = read_json("metrics/reward.json")
    assert quality["by_group"]["all"]["accuracy"] == 1.0
    assert quality["reference_score_validation"] is None
    with pytest.raises(StageError, match="there are no demonstrations"):
        workspace.stage("ppo")
