"""The stage `base` with a model that was trained elsewhere: a folder, or a model of a Hub."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest
from hub_server import environment
from tiny_models import tiny_model
from tiny_ppo import words_tokenizer

from rlhf.data.errors import DataError
from rlhf.models.policy import load_policy
from tasks.runtime.tracking import connect


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A model that needs a change: its generation config says how to sample, and contradicts itself."""
    folder, tokenizer = tmp_path_factory.mktemp("models") / "own", words_tokenizer()
    tiny_model("llama", tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"top_k": 7, "eos_token_id": 1}')
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


def bring(workspace, path: Path | str, **more) -> None:
    """Set params.yaml to a model of elsewhere, and put what the stage waits for in its place."""
    workspace.set({"base": {"type": "pretrained", "path": str(path), **more}})
    for name in ("data/prepared/corpus.parquet", "metrics/validation.json"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


CHANGE = "left out of its generation config, for samples follow the parameters alone: top_k 7"


@pytest.mark.slow
def test_a_folder_is_brought_and_what_changed_is_said_logged_and_kept(workspace, own) -> None:
    bring(workspace, own, context=48)
    done = workspace.run("tasks.base")
    assert done.returncode == 0, done.stderr
    assert f"{own}: {CHANGE}" in done.stdout.splitlines()
    told = json.loads(Path("metrics/base.json").read_text())
    assert (told["name"], told["revision"], told["changes"]) == (str(own), None, [CHANGE])
    assert (told["licence"], told["context"]) == ("apache-2.0", 48)
    policy = load_policy("models/pretrained")
    assert policy.context == 48
    assert Path("plots/base.csv").read_text() == "step\n"
    record = json.loads(Path("runs/base.json").read_text())
    assert record["changes"] == [CHANGE]
    assert record["figures"]["parameters"] == policy.model.num_parameters()
    connect()
    run = mlflow.get_run(record["run_id"])
    assert (run.data.tags["base"], run.data.tags["base_hash"]) == (str(own), told["hash"])
    assert run.data.metrics["final/parameters"] == policy.model.num_parameters()
    assert json.loads(mlflow.artifacts.load_text(f"runs:/{record['run_id']}/base.json")) == told


@pytest.mark.slow
def test_a_model_of_a_hub_is_fetched_once_and_then_needs_no_hub(
    workspace, hub, own, tmp_path, monkeypatch
) -> None:
    for name, value in environment(hub, tmp_path / "elsewhere").items():
        monkeypatch.setenv(name, value)
    commit = hub.add("team/own", own)
    bring(workspace, "team/own", revision=commit)
    done = workspace.run("tasks.base")
    assert done.returncode == 0, done.stderr
    assert "team/own: fetching 0.1 MB to" in done.stdout
    told = json.loads(Path("metrics/base.json").read_text())
    assert (told["name"], told["revision"]) == ("team/own", commit)
    [weights] = (tmp_path / "elsewhere").rglob("snapshots/*/model.safetensors")
    assert Path("models/pretrained/model.safetensors").samefile(weights)
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = workspace.run("tasks.base")
    assert (again.returncode, hub.requests) == (0, []), again.stderr
    assert "fetching" not in again.stdout
    bring(workspace, "team/own", revision="0" * 40)
    refused = workspace.run("tasks.base")
    assert refused.returncode == 1
    said = [line for line in refused.stderr.splitlines() if " INFO mlflow." not in line]
    assert len(said) == 1
    assert said[0].startswith("error: team/own is not whole in")


@pytest.mark.parametrize(
    ("free", "memory", "message"),
    [
        (
            100_000,
            10**12,
            r"team/own needs 0\.2 MB of disk \(0\.1 MB for the download, 0\.1 MB for models/pre",
        ),
        (
            10**12,
            100_000,
            r"team/own needs 0\.3 MB of memory for SFT \(0\.00 B parameters, all of them learning",
        ),
    ],
)
def test_what_has_no_room_is_refused_and_its_weights_never_fetched(
    free, memory, message, workspace, hub, own, monkeypatch
) -> None:
    from types import SimpleNamespace

    from rlhf.models import base_checks

    monkeypatch.setattr(base_checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setattr(base_checks, "memory", lambda: (memory, "this machine"))
    bring(workspace, "team/own", revision=hub.add("team/own", own))
    with pytest.raises(DataError, match=message):
        workspace.stage("base")
    asked = [part for _, path, part in hub.requests if path.endswith("model.safetensors")]
    assert asked == ["bytes=0-100000"]


def test_a_template_or_tokenizer_that_cannot_be_used_is_refused_before_the_weights_are_fetched(
    workspace, hub, own, tmp_path
) -> None:
    (tmp_path / "mine.jinja").write_text("{% for")
    template = str(tmp_path / "mine.jinja")
    bring(workspace, "team/own", revision=hub.add("team/own", own), template=template)
    with pytest.raises(DataError, match=r"^base\.template \S+mine\.jinja: [^\n]*$"):
        workspace.stage("base")
    assert all(part for _, path, part in hub.requests if path.endswith("model.safetensors"))


def test_a_folder_with_other_content_than_was_planned_is_refused(workspace, own) -> None:
    bring(workspace, own, sha256="0" * 64)
    with pytest.raises(DataError, match=r"base\.path: the content of \S+ is not what base\.sha256 says"):
        workspace.stage("base")
