"""The registry: one version for one result, served in a fresh process, and the gate to @champion."""

import html
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import Quiet
from crafted import HEALTHY, evaluation, judged
from label_app import person
from report_page import GATE, PAGES
from starlette.testclient import TestClient

from flows.label import Champion
from labeling import people
from labeling.schema import items
from labeling.store import Store
from labeling.web.app import create_app
from labeling.web.security import COOKIE
from rlhf.data.contracts import DEMONSTRATION, GOLD, JUDGMENT, PROMPT, with_ids
from rlhf.data.errors import DataError
from rlhf.data.files import write_json
from rlhf.data.table import write_table
from rlhf.models.template import as_row
from rlhf.settings import load_settings
from tasks.register import champion_run, write_report
from tasks.runtime.registry import standing

NAMES = ("anna", "tom", "maria", "joe", "lisa", "paul", "kate", "max")
THINGS = ("laptop", "bike", "phone", "guitar", "camera", "watch", "lamp", "chair")
PROMPTS = [
    f"POST: my sister {name} broke my{' very' * (place % 3)} {thing}.\nTL;DR:"
    for name in NAMES
    for place, thing in enumerate(THINGS)
]
REFERENCE = " my sister anna broke my laptop."
FACTS = {
    "who": "sister anna",
    "deed": "broke my laptop",
    "when": "last week",
    "where": "at school",
    "amount": "ten dollars",
    "feeling": "feel angry",
    "ask": "should i forgive",
}


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

    from tasks import register
    from tasks.runtime.stage import Stage, stage_settings

    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    client = MlflowClient()
    experiment = client.create_experiment("test", artifact_location=(tmp_path / "artifacts").as_uri())
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


def rule(gate: dict, name: str) -> dict:
    return next(rule for rule in gate["rules"] if rule["rule"] == name)


def test_same_result_is_one_version_and_the_gate_opens_once_the_rules_hold(registry):
    write_result(0.5)
    first = registry()
    assert (first["promoted"], first["version"], first["aliases"]) == (False, "1", {"challenger": 1})
    assert [rule["rule"] for rule in first["rules"] if not rule["held"]] == ["interval", "length"]
    assert registry() == first

    write_result(prompts=PROMPTS[:39])
    second = registry()
    assert (second["promoted"], second["version"]) == (False, "2")
    assert not rule(second, "prompts")["held"]

    write_result(0.95)
    third = registry()
    assert (third["promoted"], third["aliases"]) == (True, {"challenger": 3, "champion": 3})
    assert rule(registry(), "champion")["detail"] == "the champion, version 3, has the same weights"


def test_champion_is_met_on_the_same_prompts(registry, monkeypatch):
    from mlflow import MlflowClient

    from tasks import register

    registry()
    write_policy(2)
    write_result(0.95)
    asked = []
    real = register.judge_policy

    def watch(stage, folder, rows):
        asked.append([row["prompt"] for row in rows])
        return real(stage, folder, rows)

    monkeypatch.setattr(register, "judge_policy", watch)
    gate = registry()  # a random champion never wins, the judgments say that the new policy mostly does
    assert asked == [PROMPTS]
    assert gate["aliases"] == {"challenger": 2, "champion": 2}
    assert "0.953, the champion (version 1) 0.000 on the same 64 prompts" in rule(gate, "champion")["detail"]
    assert "rate" in gate["champion"]["comparison"]["gains"]

    write_policy(3)
    write_result(0.92)
    monkeypatch.setattr(register, "judge_policy", lambda _stage, _folder, rows: rows)
    gate = registry()
    assert (gate["promoted"], gate["aliases"]) == (False, {"challenger": 3, "champion": 2})  # only as good
    assert rule(gate, "champion")["detail"].endswith("so it stays challenger")
    version = MlflowClient().get_model_version("rlhf-policy", "3")
    assert version.tags["promoted"] == "false"
    assert version.tags["gate.champion"].startswith("failed: preferred to the reference 0.922, the champion")


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
    write_policy(2, chatml=True)  # a champion must be able to read the conversations of the next
    write_result(0.95)
    assert registry()["aliases"]["champion"] == 2
    assert ask() == "rlhf-policy/2"
    write_policy(3, chatml=True)
    write_result(1.0, chat=True)
    assert registry()["aliases"]["champion"] == 3
    assert ask() == "rlhf-policy/3"  # judged on conversations, and so asked in one
    with app_store.read() as tx:
        messages = tx.scalars(sa.select(items.c.messages).order_by(items.c.id)).all()
    assert messages == [None, None, [{"role": "user", "content": PROMPTS[0]}]]
    app_store.close()


def test_every_refusal_and_warning_is_in_the_description(registry):
    from mlflow import MlflowClient

    fall = {"found": True, "best": 6, "before": 6, "after": 12, "fall": 0.2, "rise": 1.0, "p_value": 1e-4}
    along = {"judge": {"name": "first", "kind": "gold"}, "n": 200, "looks": [{}, {}], "hacking": fall}
    write_result(0.5)
    registry()
    write_result(0.45, overoptimisation=along)
    gate = registry()
    assert (gate["promoted"], gate["aliases"]) == (False, {"challenger": 2})
    version = MlflowClient().get_model_version("rlhf-policy", "2")
    failed = [rule for rule in gate["rules"] if not rule["held"]]
    assert {rule["rule"] for rule in failed} == {"interval", "length", "hacking"}
    for rule in failed:
        assert f"- {rule['rule']} failed: {rule['detail']}" in version.description
        assert version.tags[f"gate.{rule['rule']}"] == f"failed: {rule['detail']}"
    assert gate["warnings"]
    for line in gate["warnings"]:
        assert f"- warning: {line}" in version.description


def test_evaluations_of_the_same_prompts_are_counted_whether_registered_or_not(registry):
    from mlflow import MlflowClient

    from rlhf.data.table import read_table
    from tasks.runtime.past_evaluations import record_evaluation

    first = registry()
    assert (first["look"], first["warnings"]) == (1, [])

    class Elsewhere:
        """A stage `evaluate` that was run alone, as with --until evaluate."""

        def log_tags(self, tags):
            client = MlflowClient()
            experiment = client.get_experiment_by_name("test").experiment_id
            client.set_terminated(client.create_run(experiment, tags=tags).info.run_id)

    rows = read_table("data/judgments/judgments.parquet", JUDGMENT)
    for place in range(3):
        seen = [row | {"preferred": "tie"} if k == place else row for k, row in enumerate(rows)]
        record_evaluation(Elsewhere(), seen)
        record_evaluation(Elsewhere(), seen)  # the same again
    other = [row | {"prompt": f"another question {k}"} for k, row in enumerate(rows)]
    record_evaluation(Elsewhere(), other)
    write_result(0.92, PROMPTS[:60])  # leaving prompts out does not start the count again
    fifth = registry()
    assert fifth["look"] == 5
    assert fifth["warnings"][0].startswith("These test prompts were evaluated 5 times")
    assert "evaluation 5 of these test prompts" in rule(fifth, "interval")["detail"]
    write_result()
    assert registry()["look"] == 1  # a result that comes back keeps its number


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda: write_policy(2), "metrics/evaluation.json is not of the weights in models/ppo"),
        (
            lambda: write_json(
                "metrics/evaluation.json",
                json.loads(Path("metrics/evaluation.json").read_text()) | {"outcome": "0"},
            ),
            "metrics/evaluation.json is not of the judgments in data/judgments",
        ),
    ],
)
def test_an_evaluation_of_something_else_is_refused(registry, spoil, said):
    from mlflow import MlflowClient

    from tasks.runtime.errors import StageError

    spoil()
    with pytest.raises(StageError, match=said):
        registry()
    assert not MlflowClient().search_registered_models()


def lost_to(folder, strong, rows):
    """Judgments of a champion that always wins if it is the strong one, and else always loses."""
    word = "output" if Path(folder) == strong else "reference"
    return [row | {"preferred": word} for row in rows]


@pytest.fixture
def weak_champion(registry, monkeypatch):
    """Version 1 is champion, version 2 is far better and only challenger; models/ppo is between them."""
    from mlflow import MlflowClient

    from tasks import register

    registry()
    write_policy(2)
    write_result(0.95)
    monkeypatch.setattr(register, "judge_policy", lambda _stage, _folder, rows: rows)
    assert registry()["aliases"] == {"challenger": 2, "champion": 1}
    write_policy(3)
    write_result(0.92)
    return register.policy_folder(MlflowClient().get_model_version("rlhf-policy", "2"))


def test_the_champion_is_read_when_no_other_run_is_at_the_gate(registry, weak_champion, monkeypatch):
    from mlflow import MlflowClient

    from tasks import register
    from tasks.runtime.locks import alone

    monkeypatch.setattr(
        register, "judge_policy", lambda _, folder, rows: lost_to(folder, weak_champion, rows)
    )
    gates = []
    with alone("registry-rlhf-policy"):
        late = threading.Thread(target=lambda: gates.append(registry()))
        late.start()
        late.join(1)
        assert late.is_alive()  # it waits for the run that holds the lock, which now promotes version 2
        MlflowClient().set_registered_model_alias("rlhf-policy", "champion", "2")
    late.join(60)
    [gate] = gates
    assert (gate["promoted"], gate["champion"]["version"]) == (False, "2")
    assert gate["aliases"] == {"challenger": 3, "champion": 2}


def test_a_champion_that_another_machine_made_meanwhile_is_met_too(registry, weak_champion, monkeypatch):
    from mlflow import MlflowClient

    from tasks import register

    met = []

    def judge(_stage, folder, rows):
        met.append(Path(folder) == weak_champion)
        MlflowClient().set_registered_model_alias("rlhf-policy", "champion", "2")
        return lost_to(folder, weak_champion, rows)

    monkeypatch.setattr(register, "judge_policy", judge)
    gate = registry()
    assert met == [False, True]
    assert (gate["promoted"], gate["aliases"]) == (False, {"challenger": 3, "champion": 2})


def test_the_verdict_is_the_same_in_every_place(registry, workspace, monkeypatch, capsys):
    """Terminal, Prefect, MLflow, registry, report and JSON: the same figures, to the last digit shown."""
    import mlflow
    from mlflow import MlflowClient

    from flows.tracking import log_verdict
    from flows.verdict import show_verdict, verdict_markdown
    from tasks import register
    from tasks.runtime.outcome import write_rate

    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(register, "write_report", write_report)
    along = {"judge": {"name": "first", "kind": "gold"}, "n": 200, "hacking": HEALTHY, "fit": None}
    snapshots = [
        {"update": k, "kl": 0.5 * k, "score": 0.1 * k, "rate": 0.5, "low": 0.4, "high": 0.6} for k in (0, 3)
    ]
    write_result(0.83, overoptimisation=along | {"looks": snapshots, "best_of_n": None})
    numbers = json.loads(Path("metrics/evaluation.json").read_text())
    for row in numbers["policies"].values():
        row |= {"kl": 0.0, "mean_length": 5.0}
    for judge in numbers["judges"].values():
        judge["trust"] = {"decides": True, "reason": "exact", "accuracy": None, "controls": []}
    for row in numbers["safety"].values():
        row |= {"n": 64, "mean_repetition": 0.0}
    numbers |= {"reference": {"mean_length": 5.0}, "held_out": None, "warnings": ["A warning."]}
    write_json("metrics/evaluation.json", numbers)
    write_json("data/judgments/page.json", {"stage_key": "key", "inputs": {}, "samples": []})
    write_json("metrics/reward.json", {"loss": 0.6, "by_group": {}})
    write_json("metrics/base.json", {"parameters": 1e5, "vocabulary": 300.0, "loss": 1.0})
    write_json("metrics/collect.json", {"all": {"rankings": 3}})
    write_json("metrics/prepare.json", {})
    Path("plots").mkdir()
    write_rate(numbers)
    gate = registry()
    write_json("runs/register.json", {"gate": {k: v for k, v in gate.items() if k != "aliases"}})
    experiment = MlflowClient().get_experiment_by_name("test").experiment_id
    run = MlflowClient().create_run(experiment).info.run_id
    log_verdict(run, Path())
    show_verdict(Path(), {})

    ppo = numbers["policies"]["ppo"]
    shown = f"{ppo['rate']:.3f}", f"{ppo['low']:.3f} to {ppo['high']:.3f}"
    report = Path("reports/report.html").read_text()
    version = MlflowClient().get_model_version("rlhf-policy", gate["version"])
    places = {
        "terminal": capsys.readouterr().out,
        "Prefect": verdict_markdown(Path()),
        "registry": version.description,
        "report": report,
    }
    for place, text in places.items():
        assert all(figure in text for figure in shown), place
        for rule in gate["rules"]:
            assert rule["detail"] in html.unescape(text), (place, rule["rule"])
        for line in gate["warnings"]:
            assert line in html.unescape(text), (place, line)
    assert gate["warnings"] == ["A warning."]
    metrics = mlflow.get_run(run).data.metrics
    for figure in ("rate", "low", "high"):
        assert metrics[f"final/ppo/{figure}"] == float(version.tags[figure]) == ppo[figure]
        assert json.loads(Path("metrics/summary.json").read_text())[figure] == float(f"{ppo[figure]:.3f}")
    promoted = {metrics["final/promoted"] == 1, version.tags["promoted"] == "true", gate["promoted"]}
    assert promoted == {"@champion" in str(standing())} == {True}


def test_what_the_registry_lost_is_known(registry):
    """The result is as DVC's cache would bring it back; the registry is asked, not the file."""
    from mlflow import MlflowClient

    assert standing() is None
    gate = registry()
    write_json("runs/register.json", {"gate": {key: gate[key] for key in ("promoted", "version", "weights")}})
    assert str(standing()) == "promoted: rlhf-policy version 1 is @champion"
    client = MlflowClient()
    client.delete_registered_model_alias("rlhf-policy", "champion")
    assert standing().lost == "@champion of rlhf-policy"
    client.set_model_version_tag("rlhf-policy", "1", "weights", "of another policy")
    assert standing().lost == "version 1 of rlhf-policy with these weights"
    client.delete_registered_model("rlhf-policy")
    assert str(standing()).endswith("but the registry has no version 1 of rlhf-policy")


def test_a_champion_without_files_keeps_the_gate_shut_and_says_so(registry, tmp_path, capsys):
    registry()
    for folder in tmp_path.glob("artifacts/**/artifacts/ppo"):
        shutil.rmtree(folder)
    write_policy(2)
    write_result()
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
    from rlhf.models.policy import load_policy
    from rlhf.models.sampling import generate

    registry()
    code = """
import json, sys, mlflow, pandas as pd
served = mlflow.pyfunc.load_model("models:/rlhf-policy@challenger")
prompts = json.loads(sys.argv[1])

def refused(served, body):
    try:
        return served.predict(body)
    except mlflow.MlflowException as error:
        return str(error)

greedy = {"temperature": 0.0, "max_new_tokens": 8}
print(json.dumps({
    "sampled": [served.predict(prompts), served.predict(prompts)],
    "greedy": served.predict(prompts, params=greedy),
    "frame": served.predict(pd.DataFrame({"prompt": prompts}), params=greedy),
    "dict": served.predict({"prompt": prompts}, params=greedy),
    "one": served.predict(prompts[0], params=greedy),
    "seed": served.predict(prompts, params={"seed": 5}),
    "default": served.predict(prompts, params={"temperature": None, "seed": None}),
    "refused": refused(served, {"prompt": prompts, "model": "m"}),
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
    ours = generate(
        load_policy(Path("models/ppo")),
        [as_row(text) for text in PROMPTS],
        temperature=0,
        max_new_tokens=8,
        seed=0,
    )
    assert answers["greedy"] == answers["frame"] == answers["dict"] == ours
    assert answers["one"] == ours[:1]
    assert answers["default"] == answers["sampled"][0]
    assert answers["refused"].startswith("this model knows no model; its params are temperature")
    assert answers["sampled"][0] == answers["sampled"][1] != answers["seed"]
    assert len(answers["seed"]) == len(PROMPTS)


def test_a_version_with_adapters_is_whole_and_has_a_name(registry, tmp_path):
    """Adapters are merged in the registry, so the version's files are others than the policy's."""
    from chat_policies import adapted_policy
    from mlflow import MlflowClient

    from flows.policies import named_policy
    from rlhf.models.policy import load_policy

    shutil.rmtree("models/ppo")
    adapted_policy(Path("models"))
    write_result()
    first = registry()
    assert registry()["version"] == first["version"] == "1"
    tags = MlflowClient().get_model_version("rlhf-policy", "1").tags
    assert tags["files"] != tags["weights"]
    shutil.rmtree("models")  # the version needs nothing of the checkout
    evaluate = load_settings("params.yaml").evaluate
    with named_policy("models:/rlhf-policy@challenger") as named:
        assert named.names[:2] == ("rlhf-policy", "rlhf-policy/1")
        assert {"rlhf-policy@challenger", "models:/rlhf-policy/1"} < set(named.names)
        assert (named.temperature, named.longest) == (evaluate.temperature, evaluate.response_length)
        assert load_policy(named.folder).adapters is None
        assert named.file("params.yaml") is None  # no flow made it
        (named.folder / "config.json").write_text("{}")
    refused = pytest.raises(DataError, match="missing or were changed")
    with refused, named_policy("models:/rlhf-policy@challenger"):
        pass


def test_the_page_links_to_the_run_of_the_champion_where_its_pages_are_served(monkeypatch):
    def run(run_id: str) -> SimpleNamespace:
        name = {"stage": "register older", "pipeline": "older"}[run_id]
        tags = {"mlflow.parentRunId": "pipeline"} if run_id == "stage" else {}
        return SimpleNamespace(info=SimpleNamespace(run_name=name), data=SimpleNamespace(tags=tags))

    version = SimpleNamespace(run_id="stage")
    client = SimpleNamespace(get_run=run, get_model_version=lambda name, number: version)
    monkeypatch.setattr("mlflow.MlflowClient", lambda: client)
    stage = Quiet("register", load_settings(), key="test", run_id="test")
    known = {"version": "2", "run": "older"}
    monkeypatch.setenv("RLHF_PAGES", "http://127.0.0.1:8700")
    assert champion_run(stage, GATE) == known | {"link": PAGES}
    monkeypatch.delenv("RLHF_PAGES")
    assert champion_run(stage, GATE) == known | {"link": ""}
    assert champion_run(stage, GATE | {"champion": None}) is None


def test_a_question_that_the_champion_refuses_is_said_and_no_fault_of_the_app(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow.exceptions import MlflowException

    class Refusing:
        def predict(self, rows: Any, params: Any) -> list[str]:
            raise MlflowException("the conversation has 300 tokens")

    champion = Champion("rlhf-policy")
    monkeypatch.setattr(champion, "_current", Refusing)
    with pytest.raises(DataError, match="refuses this: the conversation has 300 tokens"):
        champion("long", 1)
