"""What `mlflow models serve` answers: completions of prompts, and status 400 for every other body."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch
import yaml
from chat_policies import adapted_policy, saved, small_policy
from conftest import ROOT
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc.scoring_server import init, invocations
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from starlette.testclient import TestClient
from tiny_ppo import PROMPTS, tiny, words_tokenizer

from rlhf.models.policy import Policy, load_policy, save_model
from rlhf.models.sampling import generate
from rlhf.models.template import as_row
from tasks.runtime.registry import self_contained, served_code

SERVED = ROOT / "mlflow" / "served_policy.py"
GREEDY = {"temperature": 0.0, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that was trained to stop at two tokens besides EOS."""
    tokenizer = words_tokenizer()
    model = tiny(tokenizer)
    stops = [tokenizer(word)["input_ids"][0] for word in (" red", " blue", " two")]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *stops]
    save_model(Policy(model, tokenizer), tmp_path_factory.mktemp("policy") / "policy")
    return tmp_path_factory.getbasetemp() / "policy0" / "policy"


def as_registered(policy: Path, folder: Path) -> Any:
    """The policy as the registry has it, loaded."""
    defaults = {"temperature": 0.7, "max_new_tokens": 6, "seed": 0}
    signature = ModelSignature(
        inputs=None,
        outputs=Schema([ColSpec("string")]),
        params=ParamSchema(
            [ParamSpec(k, "double" if k == "temperature" else "long", v) for k, v in defaults.items()]
        ),
    )
    with chdir(ROOT):
        code = served_code(folder)
    mlflow.pyfunc.save_model(
        folder / "model",
        python_model=str(SERVED),
        code_paths=[str(code)],
        artifacts={"policy": str(policy)},
        signature=signature,
        model_config=defaults,
        pip_requirements=[],
    )
    return mlflow.pyfunc.load_model(str(folder / "model"))


def test_what_logs_it_runs_it_without_loading_models() -> None:
    code = "import runpy, sys; runpy.run_path('mlflow/served_policy.py'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture(scope="module")
def served(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The policy as the registry has it."""
    return as_registered(policy, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that reads conversations, as the registry has it."""
    folder = tmp_path_factory.mktemp("chat")
    as_registered(saved(small_policy(), folder / "policy"), folder)
    return folder / "model"


@pytest.fixture(scope="module")
def chat(chat_folder: Path) -> Any:
    return mlflow.pyfunc.load_model(str(chat_folder))


def test_it_stops_where_the_evaluated_policy_stops(served, policy) -> None:
    ours = generate(
        load_policy(policy), [as_row(text) for text in PROMPTS], temperature=0, max_new_tokens=6, seed=0
    )
    assert served.predict(PROMPTS, params=GREEDY) == ours
    assert len({len(text.split()) for text in ours}) > 1  # some of them end early


def test_a_param_of_none_is_its_default_and_a_wrong_one_is_refused(served) -> None:
    none = served.predict(PROMPTS[:4], params={"temperature": None, "max_new_tokens": None, "seed": None})
    assert none == served.predict(PROMPTS[:4]) != served.predict(PROMPTS[:4], params=GREEDY)
    with pytest.raises(MlflowException, match="temperature is -1"):
        served.predict(PROMPTS[:1], params={"temperature": -1.0})


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": PROMPTS[:2]},
        {"instances": PROMPTS[:2]},
        {"prompt": PROMPTS[:2]},
        {"inputs": {"prompt": PROMPTS[:2]}},
        {"dataframe_records": [{"prompt": p} for p in PROMPTS[:2]]},
        {"dataframe_split": {"columns": ["id", "prompt"], "data": [[1, PROMPTS[0]], [2, PROMPTS[1]]]}},
    ],
)
def test_bodies_with_prompts_are_answered(served, body) -> None:
    params = GREEDY if "prompt" in body else {"params": GREEDY}
    answer = invocations(json.dumps(body | params), "application/json", served, None)
    assert answer.status == 200
    completions = json.loads(answer.response)
    if isinstance(completions, dict):
        completions = completions["predictions"]
    assert completions == served.predict(PROMPTS[:2], params=GREEDY)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": [{"role": "user", "content": "red"}], "model": "m"}, "knows no model; its params"),
        ({"messages": [{"role": "user", "content": "red"}], "prompt": "red"}, "both prompt and messages"),
        ({"messages": [{"role": "assistant", "content": "red"}]}, "nothing waits for an answer"),
        ({"messages": []}, "holds no prompt"),
        ({"messages": "red", "temperature": -1.0}, "temperature is -1"),
        (
            {"prompt": "red blue:", "model": "m", "max_tokens": 4},
            "knows no model, max_tokens; its params",
        ),
        ({"input": "red"}, "fields input and neither"),
        ({"inputs": [{"role": "robot", "content": "red"}]}, "has the role 'robot'"),
        ({"inputs": [1, 2]}, "a prompt is not a text"),
        ({"inputs": ["red", ""]}, "a prompt is not a text, or empty"),
        ({"dataframe_records": [{"id": "7", "topic": "red"}]}, "fields id, topic and neither"),
    ],
)
def test_every_other_body_is_refused_and_told_what_to_send(served, body, message) -> None:
    with pytest.raises(MlflowException, match=message) as refused:
        invocations(json.dumps(body), "application/json", served, None)
    assert refused.value.get_http_status_code() == 400
    assert "give a list of prompts" in str(refused.value)


def test_a_frame_is_read_by_the_column_named_prompt(served) -> None:
    frame = pd.DataFrame({"id": ["1", "2"], "prompt": PROMPTS[:2]})
    assert served.predict(frame, params=GREEDY) == served.predict(PROMPTS[:2], params=GREEDY)
    assert served.predict(frame["prompt"], params=GREEDY) == served.predict(PROMPTS[:2], params=GREEDY)
    with pytest.raises(MlflowException, match="fields id and neither"):
        served.predict(frame[["id"]], params=GREEDY)


HI = [{"role": "user", "content": "How are you today?"}]
TURNS = [{"role": "system", "content": "Be brief."}, *HI, {"role": "assistant", "content": "Well."}, *HI]


@pytest.mark.parametrize(
    "body",
    [
        {"messages": TURNS},
        {"inputs": {"messages": TURNS}},
        {"inputs": TURNS},
        {"inputs": [TURNS]},
        {"inputs": [{"messages": TURNS}]},
        {"dataframe_records": [{"messages": TURNS}]},
        {"dataframe_split": {"columns": ["id", "messages"], "data": [[1, TURNS]]}},
    ],
)
def test_a_conversation_is_answered_as_the_policy_was_judged(chat, body) -> None:
    params = GREEDY if "messages" in body else {"params": GREEDY}
    answer = invocations(json.dumps(body | params), "application/json", chat, None)
    completions = json.loads(answer.response)
    completions = completions["predictions"] if isinstance(completions, dict) else completions
    assert completions == generate(small_policy(), [as_row(TURNS)], temperature=0, max_new_tokens=6, seed=0)


def test_conversations_and_prompts_side_by_side(chat) -> None:
    rows = [as_row(TURNS), as_row(HI), as_row("How are you")]
    ours = generate(small_policy(), rows, temperature=0.7, max_new_tokens=6, seed=3)
    assert chat.predict([TURNS, HI, "How are you"], params={"seed": 3}) == ours
    frame = pd.DataFrame({"messages": [TURNS, HI, None], "prompt": [None, None, "How are you"]})
    assert chat.predict(frame, params={"seed": 3}) == ours


def test_the_server_of_mlflow_answers_a_conversation(chat) -> None:
    with TestClient(init(chat)) as client:
        answer = client.post("/invocations", json={"messages": TURNS, **GREEDY})
        assert (answer.status_code, answer.json()) == (200, chat.predict([TURNS], params=GREEDY))
        wrong = client.post("/invocations", json={"messages": TURNS, "max_tokens": 4})
        assert (wrong.status_code, "knows no max_tokens" in wrong.text) == (400, True)
        # why there is a server of ours
        assert client.post("/v1/chat/completions", json={"messages": TURNS}).status_code == 404


def test_it_needs_nothing_but_the_rooms_beside_it(chat, chat_folder, tmp_path) -> None:
    """The rooms that are copied hold all that the served policy imports of ours."""
    code = (
        "import sys; sys.modules.update({name: None for name in ('flows', 'tasks', 'labeling')})\n"
        "import mlflow, json\n"
        "served = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "import rlhf; assert rlhf.__file__.startswith(sys.argv[1]), rlhf.__file__\n"
        "print(json.dumps(served.predict(json.loads(sys.argv[2]))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(chat_folder), json.dumps([TURNS])],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == chat.predict([TURNS])


def test_what_loading_it_executes_is_code_beside_the_weights_and_no_pickle(chat_folder) -> None:
    """docs/security.md says what whoever can write to the store can make others run: these files."""
    suffixes = {path.suffix for path in chat_folder.rglob("*") if path.is_file()}
    assert suffixes <= {".py", ".json", ".jinja", ".safetensors", ".yaml", ".txt", "", ".j2"}, suffixes
    flavor = yaml.safe_load((chat_folder / "MLmodel").read_text())["flavors"]["python_function"]
    assert Path(flavor["model_code_path"]).name == "served_policy.py"  # the file beside it is loaded
    assert "python_model" not in flavor  # the key of a pickled one
    assert (chat_folder / "served_policy.py").read_bytes() == SERVED.read_bytes()
    copied = {path.relative_to(chat_folder / "code") for path in (chat_folder / "code").rglob("*.py")}
    assert copied
    assert all((ROOT / path).is_file() for path in copied)


def test_a_policy_with_adapters_is_served_with_them_merged(tmp_path) -> None:
    policy = load_policy(adapted_policy(tmp_path, "bfloat16"))
    whole = self_contained(tmp_path / "ppo", tmp_path / "whole")
    shutil.rmtree(tmp_path / "pretrained")
    served = as_registered(whole, tmp_path / "served")
    [answer] = served.predict([HI], params=GREEDY)
    merged = load_policy(whole)
    assert (merged.adapters, merged.settled.dtype) == (None, "float32")
    assert [answer] == generate(merged, [as_row(HI)], temperature=0, max_new_tokens=6, seed=0)
    weights = dict(policy.model.named_parameters())
    name = "model.layers.0.mlp.down_proj"
    down, up = (weights[f"{name}.lora_{side}.default.weight"] for side in "AB")
    wanted = weights[f"{name}.base_layer.weight"].float() + policy.adapters.peft_config[
        "default"
    ].lora_alpha / 4 * (up @ down)
    torch.testing.assert_close(merged.model.get_submodule(name).weight, wanted)
