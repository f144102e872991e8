"""The built-in task told as chat: every model reads turns, and what the stages write keeps them."""

from __future__ import annotations

from pathlib import Path

from conftest import Workspace

from rlhf.data.contracts import COMPARISON, DEMONSTRATION, JUDGMENT, SNAPSHOT
from rlhf.data.files import read_json
from rlhf.data.table import read_table
from rlhf.models.policy import load_policy
from rlhf.models.template import Chat


def test_conversations_go_through_all_stages(workspace: Workspace) -> None:
    workspace.set({"ingest.chat": True, "base.template": "chatml"})
    stages = ["ingest", "prepare", "validate", "base", "sft", "collect", "validate-comparisons", "reward"]
    for stage in [*stages, "ppo", "evaluate"]:
        workspace.stage(stage)

    conversation = {
        row["prompt"]: row["messages"]
        for row in read_table("data/prepared/demonstrations.parquet", DEMONSTRATION)
    }
    for path, contract, texts in (
        ("data/comparisons/comparisons.parquet", COMPARISON, ("completions",)),
        ("data/judgments/judgments.parquet", JUDGMENT, ("reference", "output")),
        ("data/snapshots/snapshots.parquet", SNAPSHOT, ("reference", "output")),
    ):
        rows = read_table(path, contract)
        assert rows
        for row in rows:
            assert row["messages"] == conversation[row["prompt"]], path
            assert not any("im_end" in str(row[text]) or "im_start" in str(row[text]) for text in texts)
    assert {row["n"] for row in read_table("data/snapshots/snapshots.parquet", SNAPSHOT)} == {1, 2}

    for name in ("pretrained", "sft", "ppo"):
        policy = load_policy(Path("models") / name)
        assert isinstance(policy.template, Chat)
        assert policy.tokenizer.eos_token == "<|im_end|>"
        (prompt, messages), *_ = conversation.items()
        ids = policy.template.prompt({"prompt": prompt, "messages": messages})
        words = policy.tokenizer.convert_ids_to_tokens(ids)
        assert words.count("<|im_start|>") == 3
        assert words[-3:] == ["<|im_start|>", "assistant", "\n"]
        assert "<unk>" not in words
    policies = read_json("metrics/evaluation.json")["policies"]
    assert policies["ppo"]["kl"] > 0  # PPO trained on these ids
