"""The judge of a small data set through the stages: it is measured, and what it says decides nothing."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from chat_server import completion
from conftest import Workspace

from rlhf.data.contracts import SNAPSHOT
from rlhf.data.files import read_json, write_json
from rlhf.data.table import write_table
from rlhf.measures.gate_rules import judge_rule
from rlhf.measures.trust_reasons import USELESS
from rlhf.report.judge_tables import judge_tables
from tasks.runtime.errors import StageError

KEY = "OPENAI_API_KEY"  # unset, and not sent to this machine

THINGS = ("boiler", "bicycle", "kettle", "laptop", "garden", "oven", "window", "printer", "camera")
STEPS = ("switch it off", "wait a minute", "open the lid", "clean the filter", "read the manual", "ask")


def own_rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """200 demonstrations, and rankings of which two are for the judge."""
    rng, demonstrations, comparisons = random.Random(0), [], []
    splits = ["train"] * 115 + ["validation"] * 10 + ["judge"] * 30 + ["test"] * 45
    ranked = {"train": 30, "validation": 5, "judge": 2, "test": 0}
    for i, split in enumerate(splits):
        prompt = f"Question {i}: how do I repair my {rng.choice(THINGS)} number {rng.randint(1, 99)}?"
        answer = ", then ".join(rng.sample(STEPS, 3)) + "."
        demonstrations.append({"prompt": prompt, "completion": answer, "split": split})
        if ranked[split]:
            ranked[split] -= 1
            texts = [answer, "no idea", rng.choice(STEPS), "what " * 8]
            comparisons.append(
                {"prompt": prompt, "completions": texts, "ranking": [1, 3, 2, 4], "labeler_id": "ann"}
                | {"policies": ["reference", "a", "b", "c"], "split": split}
            )
    return demonstrations, comparisons


@pytest.fixture
def judged(workspace: Workspace) -> Workspace:
    """README's settings for own data, on 200 rows and a base of random weights."""
    (workspace.path / "own").mkdir()
    for name, rows in zip(("demonstrations", "comparisons"), own_rows(), strict=True):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (workspace.path / f"own/{name}.jsonl").write_text(lines)
    workspace.set({"ingest.source": "files", "ingest.path": "own", "collect.labelers": "given"})
    workspace.set({"evaluate.judges": ["reward-model"], "base.tokenizer": "bpe", "base.vocab_size": 320})
    workspace.set({"base.steps": 1, "evaluate.prompts": 45, "evaluate.response_length": 48})
    for stage in ("ingest", "prepare", "base", "sft", "collect", "reward"):
        workspace.stage(stage)
    shutil.copytree("models/sft", "models/ppo")  # what PPO makes of it does not matter here
    write_table("data/snapshots/snapshots.parquet", SNAPSHOT, [])
    write_json("data/snapshots/held-out.json", None)
    return workspace


def test_a_judge_of_two_rankings_decides_nothing_about_random_text(
    judged: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = judged.stage("evaluate")
    evaluation = read_json("metrics/evaluation.json")
    trust = evaluation["judges"][evaluation["judge"]["key"]]["trust"]
    assert evaluation["judge"]["key"] == "reward-model"
    assert not trust["decides"]
    assert trust["accuracy"]["n"] == 5
    assert trust["reason"].startswith(f"{USELESS}: ")
    assert len(trust["controls"]) == 6
    assert {control["n"] for control in trust["controls"]} == {45}
    assert figures["judge/reward-model/decides"] == 0.0
    assert "corrected" not in evaluation["policies"]["sft"]
    assert evaluation["overoptimisation"] is None  # nor does it find, or not find, reward hacking
    said = " ".join(capsys.readouterr().out.split())
    assert f"This decides nothing: {USELESS}" in said
    assert "Can the judge reward-model be believed?" in said
    during = read_json("models/judge/judge.json")["trust"]  # what PPO reads
    assert not during["decides"]
    assert read_json("metrics/reward.json")["judge_trust"] == during
    assert {control["n"] for control in during["controls"]} == {10}


def test_a_language_model_that_names_what_it_sees_first_decides_nothing(
    judged: Workspace, server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server.behave = lambda request, attempt: (200, {}, completion("Clear enough.\nVerdict: A"))
    judged.set({"evaluate.judges": ["llm"], "evaluate.prompts": 10})
    judged.set(
        {"evaluate.llm.url": server.url, "evaluate.llm.model": "first", "evaluate.llm.key_variable": KEY}
    )
    judged.set({"evaluate.llm.control_prompts": 10, "evaluate.llm.control_pairs": 10})
    judged.stage("evaluate")
    evaluation = read_json("metrics/evaluation.json")
    contradicts = "10 of 10 pairs contradict themselves when turned round"
    assert contradicts in evaluation["judges"]["llm"]["trust"]["reason"]
    said = " ".join(capsys.readouterr().out.split())
    assert f"This decides nothing: {USELESS}: {contradicts}" in said
    rule = judge_rule(evaluation)
    assert (rule.held, contradicts in rule.detail) == (False, True)
    captions = " ".join(table["caption"] for table in judge_tables(evaluation))
    assert f"Can the judge llm be believed? {USELESS}: {contradicts}" in captions
    # and a model of which nothing can be read
    server.behave = lambda request, attempt: (200, {}, completion("I cannot compare these."))
    judged.set({"evaluate.llm.model": "mute"})
    with pytest.raises(
        StageError, match=r"replies could not be read, such as 'I cannot compare these\.'"
    ) as caught:
        judged.stage("evaluate")
    assert "\n" not in str(caught.value)


def test_no_judge_needs_a_control_that_is_no_model(workspace: Workspace) -> None:
    from rlhf.judges.judge import KINDS
    from tasks.judging import trust_in

    class Judge:
        name = "j"

        def __init__(self, kind: str) -> None:
            self.kind = kind

    for kind in set(KINDS) - {"model"}:
        trust = trust_in(Judge(kind), [], {}, None, 0).as_dict()  # type: ignore[arg-type]
        assert trust["decides"]
        assert trust["reason"].startswith("no control is needed: ")
        assert (trust["accuracy"], trust["controls"]) == (None, [])
    assert not Path("metrics/evaluation.json").exists()
