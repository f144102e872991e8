"""A registered version: found again, whole, served in a fresh process."""

# pytest finds fixtures by the names of arguments:
# ruff: noqa: F401, F811

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from registered import PROMPTS, empty_store, registry, write_result

from rlhf.data.errors import DataError
from rlhf.data.files import write_json
from rlhf.models.template import as_row
from rlhf.settings import load_settings
from tasks.runtime.registry import standing


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
