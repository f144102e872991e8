"""The champion: who meets it, who replaces it, and what happens where its files or its place are gone."""

# pytest finds fixtures by the names of arguments:
# ruff: noqa: F401, F811

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import Quiet
from crafted import judged
from label_app import person
from registered import PROMPTS, empty_store, registry, rule_of, write_policy, write_result
from report_page import GATE, PAGES
from starlette.testclient import TestClient

from flows.label import Champion
from labeling import people
from labeling.schema import items
from labeling.store import Store
from labeling.web.app import create_app
from labeling.web.security import COOKIE
from rlhf.data.errors import DataError
from rlhf.settings import load_settings
from tasks.register import champion_run


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
    assert (
        "0.953, the champion (version 1) 0.000 on the same 64 prompts" in rule_of(gate, "champion")["detail"]
    )
    assert "rate" in gate["champion"]["comparison"]["gains"]

    write_policy(3)
    write_result(0.92)
    monkeypatch.setattr(register, "judge_policy", lambda _stage, _folder, rows: rows)
    gate = registry()
    assert (gate["promoted"], gate["aliases"]) == (False, {"challenger": 3, "champion": 2})  # only as good
    assert rule_of(gate, "champion")["detail"].endswith("so it stays challenger")
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


def test_a_champion_without_files_keeps_the_gate_shut_and_says_so(registry, tmp_path, capsys):
    registry()
    for folder in tmp_path.glob("artifacts/**/artifacts/ppo"):
        shutil.rmtree(folder)
    write_policy(2)
    write_result()
    gate = registry()
    assert gate["aliases"] == {"challenger": 2, "champion": 1}
    assert "champion, version 1, are missing or changed" in rule_of(gate, "champion")["detail"]
    assert "gate: champion: failed: the files" in capsys.readouterr().out


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
