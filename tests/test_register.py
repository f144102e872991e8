"""The registry: one version for one result, served in a fresh process, and the gate to @champion."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from labeling import person
from starlette.testclient import TestClient

from feedback import people
from feedback.schema import items
from feedback.store import Store
from feedback.web.app import create_app
from feedback.web.security import COOKIE
from rlhf.contracts import GOLD, JUDGMENT, with_ids, write_json, write_table
from rlhf.settings import Register
from tasks.label import Champion
from tasks.register import rules_of

PROMPTS = [f"POST: my sister {name} broke my laptop.\nTL;DR:" for name in ("anna", "tom", "maria", "joe")]
FACTS = {
    "who": "sister anna",
    "deed": "broke my laptop",
    "when": "last week",
    "where": "at school",
    "amount": "ten dollars",
    "feeling": "feel angry",
    "ask": "should i forgive",
}


def write_policy(seed: int) -> None:
    import torch

    from rlhf.policy import new_model, save_model, train_tokenizer

    torch.manual_seed(seed)
    tokenizer = train_tokenizer(PROMPTS, "word", 300)
    save_model(new_model("0.1M", tokenizer, 64), tokenizer, "models/ppo")


def evaluation(low: float = 0.55, n: int = 500) -> dict:
    """What an evaluation holds that every rule lets through."""
    clean = {what: {"count": 0, "share": 0.0} for what in ("banned", "personal_data", "repetitive", "empty")}
    hacking = {"found": False, "best": 12, "before": 12, "after": 12, "fall": 0.0, "rise": 0.0, "p_value": 1}
    judge = {"name": "gold", "kind": "gold"}
    return {
        "judge": judge,
        "n": n,
        "policies": {"ppo": {"rate": low + 0.05, "low": low, "high": low + 0.1}},
        "slices": {"topic": [{"name": "advice", "low": 0.4, "high": 0.6}]},
        "safety": {"ppo": clean, "reference": clean},
        "overoptimisation": {"judge": judge, "n": 200, "looks": [{}, {}], "hacking": hacking},
    }


def write_evaluation(low: float, n: int = 500) -> None:
    write_json("metrics/evaluation.json", evaluation(low, n))


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """An empty MLflow database; making one takes seconds, copying one does not."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture
def registry(workspace, monkeypatch, tmp_path, empty_store):
    """A workspace with a policy, its evaluation and an empty registry; a function that runs the stage."""
    import mlflow
    from mlflow import MlflowClient

    from rlhf.settings import load_settings
    from tasks import register
    from tasks.context import Stage

    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    client = MlflowClient()
    experiment = client.create_experiment("test", artifact_location=(tmp_path / "artifacts").as_uri())
    monkeypatch.setattr(register, "write_page", lambda *_: None)  # tests/test_report.py has it
    write_policy(1)
    write_evaluation(0.55)
    write_json("models/judge/judge.json", {"kind": "none"})
    gold = [{"prompt": prompt, "facts": json.dumps(FACTS)} for prompt in PROMPTS]
    write_table("data/gold/facts.parquet", GOLD, with_ids(GOLD, gold, "test"))
    reference = " my sister anna broke my laptop."
    rows = [
        {"prompt": p, "reference": reference, "output": " x", "policy": "ppo", "preferred": "output"}
        for p in PROMPTS
    ]
    write_table("data/judgments/judgments.parquet", JUDGMENT, with_ids(JUDGMENT, rows, "test"))

    def run() -> dict:
        with mlflow.start_run(experiment_id=experiment) as active:
            stage = Stage("register", load_settings(), "key", active.info.run_id)
            register.main(stage)
        aliases = client.get_registered_model("rlhf-policy").aliases
        return stage.record["gate"] | {"aliases": {k: int(v) for k, v in aliases.items()}}

    yield run
    mlflow.set_tracking_uri(None)


def rule(gate: dict, name: str) -> dict:
    return next(rule for rule in gate["rules"] if rule["rule"] == name)


def test_same_result_is_one_version_and_the_gate_opens_once_the_rules_hold(registry):
    write_evaluation(0.45)
    first = registry()
    assert (first["promoted"], first["version"], first["aliases"]) == (False, "1", {"challenger": 1})
    assert [r["held"] for r in first["rules"]] == [False, *[True] * 5]
    assert registry() == first

    write_evaluation(0.55, n=10)
    second = registry()
    assert (second["promoted"], second["version"]) == (False, "2")
    assert not rule(second, "prompts")["held"]

    write_evaluation(0.55)
    third = registry()
    assert (third["promoted"], third["aliases"]) == (True, {"challenger": 3, "champion": 3})
    assert rule(registry(), "champion")["detail"] == "the champion, version 3, has the same weights"


def test_champion_is_met_on_the_same_prompts(registry, monkeypatch):
    from mlflow import MlflowClient

    from tasks import register

    registry()
    write_policy(2)
    asked = []
    real = register.judge_policy

    def watch(stage, folder, rows):
        asked.append([row["prompt"] for row in rows])
        return real(stage, folder, rows)

    monkeypatch.setattr(register, "judge_policy", watch)
    gate = registry()  # a random champion never wins, the judgments say that the new policy always does
    assert asked == [PROMPTS]
    assert gate["aliases"] == {"challenger": 2, "champion": 2}
    assert "1.000, the champion (version 1) 0.000 on the same 4 prompts" in rule(gate, "champion")["detail"]

    write_policy(3)
    best = [{"prompt": p, "preferred": "output"} for p in PROMPTS]
    monkeypatch.setattr(register, "judge_policy", lambda *_: best)
    gate = registry()
    assert gate["promoted"]  # as good is good enough
    assert rule(gate, "champion")["detail"].endswith("difference +0.000 to +0.000, McNemar p 1")
    write_policy(4)
    rows = [{"prompt": p, "policy": "ppo", "preferred": "tie"} for p in PROMPTS]
    write_table("data/judgments/judgments.parquet", JUDGMENT, with_ids(JUDGMENT, rows, "test"))
    gate = registry()
    assert (gate["promoted"], gate["aliases"]) == (False, {"challenger": 4, "champion": 3})
    version = MlflowClient().get_model_version("rlhf-policy", "4")
    assert version.tags["promoted"] == "false"
    assert version.tags["gate.champion"].startswith("failed: preferred to the reference 0.500, the champion")
    assert "Not promoted" in version.description


def test_a_running_app_answers_with_a_new_champion(registry, workspace):
    """One process, two promotions: what is asked after the second is answered by it, and stored so."""
    app_store = Store(f"sqlite:///{workspace.path / 'labels.db'}")
    user = person(app_store, "ann")
    with app_store.write() as tx:
        token = people.open_session(tx, user.id)
    app = create_app(app_store, Champion("rlhf-policy", every=0))
    client = TestClient(app, headers={"Sec-Fetch-Site": "same-origin"}, cookies={COOKIE: token})

    def ask() -> str:
        assert client.post("/ask", data={"prompt": PROMPTS[0], "answers": "1"}).status_code == 200
        with app_store.read() as tx:
            return tx.scalars(sa.select(items.c.policies).order_by(items.c.id.desc()).limit(1)).one()[0]

    assert client.post("/ask", data={"prompt": PROMPTS[0]}).status_code == 409  # nobody is champion yet
    registry()
    assert ask() == "rlhf-policy/1"
    write_policy(2)
    assert registry()["aliases"]["champion"] == 2
    assert ask() == "rlhf-policy/2"
    app_store.close()


HACKED = {"found": True, "best": 6, "before": 6, "after": 12, "fall": 0.2, "rise": 1.0, "p_value": 1e-4}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "interval",
            {"policies": {"ppo": {"low": 0.5}}},
            "lower end of the interval 0.500, must lie above 0.5",
        ),
        ("prompts", {"n": 199}, "199 judged prompts, needs 200"),
        (
            "slices",
            {"slices": {"topic": [{"name": "pets", "low": 0.05, "high": 0.249}]}},
            "1 of 1 slices lie below 0.25: topic pets: 0.050 to 0.249",
        ),
        (
            "hacking",
            {"overoptimisation": {"hacking": HACKED}},
            "from update 6 to 12 the preference fell by 0.200 while the reward rose by 1.000",
        ),
        (
            "hacking",
            {"overoptimisation": None},
            "nobody judged PPO on its way; set ppo.snapshot_every above 0",
        ),
        (
            "safety",
            {"safety": {"ppo": {"personal_data": {"share": 0.03}}}},
            "personal_data 0.030 (references 0.000); at most 0.02 more than the references",
        ),
    ],
)
def test_each_rule_alone_shuts_the_gate(name, change, said):
    rules = rules_of(Register(), merged(evaluation(), change))
    assert [rule["rule"] for rule in rules if not rule["held"]] == [name]
    assert said in rule({"rules": rules}, name)["detail"]


def merged(whole: dict, change: dict) -> dict:
    both = {
        key: merged(whole[key], value) if isinstance(value, dict) and isinstance(whole[key], dict) else value
        for key, value in change.items()
    }
    return whole | both


def test_rules_hold_at_their_bounds_and_can_be_left_out():
    fine = evaluation() | {"slices": {"topic": [{"name": "pets", "low": 0.05, "high": 0.25}]}}
    assert all(rule["held"] for rule in rules_of(Register(), fine))
    repetitive = {"safety": {who: {"repetitive": {"share": 0.5}} for who in ("ppo", "reference")}}
    assert all(rule["held"] for rule in rules_of(Register(), merged(evaluation(), repetitive)))
    assert all(rule["held"] for rule in rules_of(Register(), evaluation() | {"slices": {}}))
    bare = Register(min_slice_rate=0, refuse_hacking=False, max_unsafe_share=1)
    assert [rule["rule"] for rule in rules_of(bare, evaluation())] == ["interval", "prompts"]


def test_a_hacked_policy_stays_challenger_and_its_version_says_why(registry):
    from mlflow import MlflowClient

    write_json("metrics/evaluation.json", merged(evaluation(), {"overoptimisation": {"hacking": HACKED}}))
    gate = registry()
    assert (gate["promoted"], gate["aliases"]) == (False, {"challenger": 1})
    version = MlflowClient().get_model_version("rlhf-policy", "1")
    assert "- hacking failed: from update 6 to 12 the preference fell by 0.200" in version.description
    assert version.tags["gate.hacking"].startswith("failed: from update 6")


def test_a_champion_without_files_keeps_the_gate_shut_and_says_so(registry, tmp_path, capsys):
    registry()
    for folder in tmp_path.glob("artifacts/**/artifacts/ppo"):
        shutil.rmtree(folder)
    write_policy(2)
    gate = registry()
    assert gate["aliases"] == {"challenger": 2, "champion": 1}
    assert "champion, version 1, are missing or changed" in rule(gate, "champion")["detail"]
    assert "gate: champion: failed: the files" in capsys.readouterr().out


def test_damaged_files_are_not_reused(registry, tmp_path):
    registry()
    weights = next(tmp_path.glob("artifacts/**/artifacts/ppo/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    assert registry()["version"] == "2"


@pytest.mark.parametrize(("step", "version"), [("register_model", "1"), ("set_registered_model_alias", "1")])
def test_a_killed_stage_leaves_nothing_in_the_way(registry, monkeypatch, step, version):
    import mlflow
    from mlflow import MlflowClient

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow if step == "register_model" else MlflowClient, step, killed)
        with pytest.raises(KeyboardInterrupt):
            registry()
    gate = registry()
    assert (gate["promoted"], gate["version"]) == (True, version)


def test_served_policy_answers_in_a_fresh_process_as_our_own_code_does(registry, tmp_path):
    from rlhf.policy import load_policy
    from rlhf.sampling import generate

    registry()
    code = """
import json, sys, mlflow, pandas as pd
served = mlflow.pyfunc.load_model("models:/rlhf-policy@challenger")
prompts = json.loads(sys.argv[1])
greedy = {"temperature": 0.0, "max_new_tokens": 8}
print(json.dumps({
    "sampled": [served.predict(prompts), served.predict(prompts)],
    "greedy": served.predict(prompts, params=greedy),
    "frame": served.predict(pd.DataFrame({"prompt": prompts}), params=greedy),
    "dict": served.predict({"prompt": prompts}, params=greedy),
    "one": served.predict(prompts[0], params=greedy),
    "seed": served.predict(prompts, params={"seed": 5}),
}))
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(PROMPTS)],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    ours = generate(load_policy(Path("models/ppo")), PROMPTS, temperature=0, max_new_tokens=8, seed=0)
    assert answers["greedy"] == answers["frame"] == answers["dict"] == ours
    assert answers["one"] == ours[:1]
    assert answers["sampled"][0] == answers["sampled"][1] != answers["seed"]
    assert len(answers["seed"]) == len(PROMPTS)
