"""Votes through the stages: a source with thumbs and no comparisons trains a reward model."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Workspace
from own_rows import own, rows_of

from rlhf.compute import deterministic
from rlhf.data.files import read_json
from rlhf.models.policy import Policy, save_model
from rlhf.models.reward_model import load_reward, score
from rlhf.models.scratch import new_model, train_tokenizer


def test_votes_without_comparisons_train_a_reward_model(workspace: Workspace) -> None:
    own(workspace, rows_of(40), [])
    Path("own/comparisons.jsonl").unlink()
    votes = [
        {"prompt": f"question {i}", "completion": "good" if up else "bad", "label": up}
        for i in range(40)
        for up in (True, False)
    ]
    Path("own/votes.jsonl").write_text("".join(json.dumps(vote) + "\n" for vote in votes))
    workspace.set({"prepare.validation_share": 0.3, "reward.epochs": 8})
    for stage in ("ingest", "prepare", "validate"):
        workspace.stage(stage)
    deterministic(0, 1)
    texts = [f"question {vote['prompt']} {vote['completion']}" for vote in votes]
    tokenizer = train_tokenizer(texts, "word", 300)
    save_model(Policy(new_model("0.1M", tokenizer, 256), tokenizer), "models/sft")
    for stage in ("collect", "validate-comparisons"):
        workspace.stage(stage)
    figures = workspace.stage("reward")

    assert figures["votes/auc"] == 1.0
    told = read_json("metrics/reward.json")["votes"]
    assert told["votes"] > 0
    assert told["up"] == 0.5
    reward = load_reward("models/reward")
    asked = [{"prompt": "question 1", "messages": None}] * 2
    good, bad = score(reward, asked, [" good", " bad"])
    assert good > bad
