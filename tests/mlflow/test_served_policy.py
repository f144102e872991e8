"""What `mlflow models serve` answers: completions of prompts, and status 400 for every other body."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from conftest import ROOT
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc.scoring_server import invocations
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from tiny_ppo import PROMPTS, tiny, words_tokenizer

from rlhf.models.policy import Policy, load_policy, save_model
from rlhf.models.sampling import generate
from rlhf.models.template import as_row

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


@pytest.fixture(scope="module")
def served(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The policy as the registry has it."""
    defaults = {"temperature": 0.7, "max_new_tokens": 6, "seed": 0}
    signature = ModelSignature(
        inputs=None,
        outputs=Schema([ColSpec("string")]),
        params=ParamSchema(
            [ParamSpec(k, "double" if k == "temperature" else "long", v) for k, v in defaults.items()]
        ),
    )
    folder = tmp_path_factory.mktemp("served") / "model"
    files = {"policy": str(policy)}
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(SERVED),
        artifacts=files,
        signature=signature,
        model_config=defaults,
        pip_requirements=[],
    )
    return mlflow.pyfunc.load_model(str(folder))


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
        (
            {"messages": [{"role": "user", "content": "red"}], "model": "m"},
            "messages, model and no prompt",
        ),
        ({"messages": [{"role": "user", "content": "red"}]}, "fields messages and no prompt"),
        (
            {"prompt": "red blue:", "model": "m", "max_tokens": 4},
            "knows no model, max_tokens; its params",
        ),
        ({"input": "red"}, "fields input and no prompt"),
        ({"inputs": [{"role": "user", "content": "red"}]}, "and no prompt|a prompt is not a text"),
        ({"inputs": [1, 2]}, "a prompt is not a text"),
        ({"inputs": ["red", ""]}, "a prompt is not a text, or empty"),
        ({"dataframe_records": [{"id": "7", "topic": "red"}]}, "fields id, topic and no prompt"),
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
    with pytest.raises(MlflowException, match="fields id and no prompt"):
        served.predict(frame[["id"]], params=GREEDY)
