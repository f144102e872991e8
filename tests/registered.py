"""A policy with an evaluation and an empty registry: what tests of `register` share."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from typing import Any

import pytest
from crafted import evaluation, judged
from judged_posts import FACTS

from rlhf.data.contracts import DEMONSTRATION, GOLD, JUDGMENT, PROMPT, with_ids
from rlhf.data.files import write_json
from rlhf.data.table import write_table

NAMES = ("anna", "tom", "maria", "joe", "lisa", "paul", "kate", "max")
THINGS = ("laptop", "bike", "phone", "guitar", "camera", "watch", "lamp", "chair")
PROMPTS = [
    f"POST: my sister {name} broke my{' very' * (place % 3)} {thing}.\nTL;DR:"
    for name in NAMES
    for place, thing in enumerate(THINGS)
]
REFERENCE = " my sister anna broke my laptop."


def write_policy(seed: int, chatml: bool = False) -> None:
    import torch

    from rlhf.models.policy import Policy, save_model
    from rlhf.models.scratch import new_model, train_tokenizer

    torch.manual_seed(seed)
    tokenizer = train_tokenizer(PROMPTS, "word", 300, chatml=chatml)
    save_model(Policy(new_model("0.1M", tokenizer, 64), tokenizer), "models/ppo")


def write_result(rate: float = 0.9, prompts: list[str] = PROMPTS, chat: bool = False, **changes: Any) -> None:
    """What `evaluate` writes of the policy in models/ppo, PPO being preferred on a share of the prompts,
    which are conversations with `chat`."""
    from rlhf.measures.alpha_spending import outcome
    from tasks.graph import content_hash

    wins = round(rate * len(prompts))
    outputs = [" ".join("abcdefgh"[: 3 + place % 6]) for place in range(len(prompts))]
    preferred = ["output"] * wins + ["reference"] * (len(prompts) - wins)
    rows = judged(preferred, prompts, outputs)
    for row in rows:
        row["reference"] = REFERENCE
        row["messages"] = [{"role": "user", "content": row["prompt"]}] if chat else None
    write_table("data/judgments/judgments.parquet", JUDGMENT, with_ids(JUDGMENT, rows, "test"))
    numbers = evaluation(rows) | {"outcome": outcome(rows), "weights": {"ppo": content_hash("models/ppo")}}
    write_json("metrics/evaluation.json", numbers | changes)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An empty MLflow database; making one takes seconds, copying one does not."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture
def registry(workspace, monkeypatch, tmp_path, empty_store):
    """A workspace with a policy, its evaluation and an empty registry; a function that runs the stage."""
    with registry_in(tmp_path, "artifacts", workspace, monkeypatch, empty_store) as run:
        yield run


@contextmanager
def registry_in(place, artifacts, workspace, monkeypatch, empty_store):
    """What the fixture `registry` is, with the database and the folder of the artifacts in a place."""
    import mlflow
    from mlflow import MlflowClient

    from tasks import register
    from tasks.runtime.stage import Stage, stage_settings

    uri = f"sqlite:///{shutil.copy(empty_store, place)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    client = MlflowClient()
    experiment = client.create_experiment("test", artifact_location=(place / artifacts).as_uri())
    monkeypatch.setattr(register, "write_report", lambda *_: None)  # tests/rlhf/report/test_report.py has it
    workspace.set({"register.min_prompts": 40, "register.min_decided": 40, "register.min_slice_rate": 0})
    write_policy(1)
    write_result()
    write_json("models/judge/judge.json", {"kind": "none"})
    gold = [{"prompt": prompt, "facts": json.dumps(FACTS)} for prompt in PROMPTS]
    write_table("data/gold/facts.parquet", GOLD, with_ids(GOLD, gold, "test"))
    topics = [{"prompt": prompt, "topic": f"topic {place % 2}"} for place, prompt in enumerate(PROMPTS)]
    write_table("data/prepared/prompts.parquet", PROMPT, with_ids(PROMPT, topics, "test"))
    wrote = [{"prompt": prompt, "completion": REFERENCE, "writer_id": "terse-1"} for prompt in PROMPTS]
    table = with_ids(DEMONSTRATION, wrote, "test")
    write_table("data/prepared/demonstrations.parquet", DEMONSTRATION, table)

    def run() -> dict:
        with mlflow.start_run(experiment_id=experiment) as active:
            stage = Stage("register", stage_settings("register"), "key", active.info.run_id)
            register.main(stage)
        aliases = client.get_registered_model("rlhf-policy").aliases
        return stage.record["gate"] | {"aliases": {k: int(v) for k, v in aliases.items()}}

    yield run
    mlflow.set_tracking_uri(None)


def rule_of(gate: dict, name: str) -> dict:
    return next(rule for rule in gate["rules"] if rule["rule"] == name)
