"""The flow and its tasks, over a small graph of its own in a temporary repository."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun
from prefect.testing.utilities import prefect_test_harness

import flows.rlhf
from flows.workspace import enter, parse_changes, plan, write_params
from rlhf.settings import Settings, SettingsError, load_settings
from tasks import context, stage

STEP = """
import pathlib, sys
sys.path.insert(0, ".")
name, *outs = sys.argv[1:]
if pathlib.Path("data.txt").read_text() == "bad" and name == "prepare":
    sys.exit("error: data.txt: row 3: no number; write one")
for out in outs:
    path = pathlib.Path(out)
    path.parent.mkdir(exist_ok=True)
    path.write_text(name + "\\n")
    print(f"{name}: wrote {out}")
"""
GRAPH: dict[str, Any] = {
    "ingest": {"deps": ["step.py", "data.txt"], "params": ["seed"], "outs": ["data/raw"]},
    "prepare": {"deps": ["data/raw", "data.txt"], "outs": ["data/prepared"]},
    "train": {"deps": ["data/prepared"], "params": ["ppo.kl_coef"], "outs": ["models/policy"]},
    "evaluate": {"deps": ["data/prepared", "models/policy"], "outs": ["reports/report.html"]},
}
EDGES = {
    "ingest": set(),
    "prepare": {"ingest"},
    "train": {"prepare"},
    "evaluate": {"prepare", "train"},
}
EVALUATION = {
    "judge": {"name": "gold", "kind": "gold"},
    "n": 500,
    "policies": {
        "pretrained": {"rate": 0.1, "low": 0.08, "high": 0.13, "mean_length": 20.0, "kl": None},
        "sft": {"rate": 0.31, "low": 0.27, "high": 0.35, "mean_length": 21.0, "kl": 0.0},
        "ppo": {"rate": 0.66, "low": 0.62, "high": 0.7, "mean_length": 22.0, "kl": 4.25},
    },
}
GATE = {
    "promoted": False,
    "version": 3,
    "rules": [
        {"rule": "interval above 0.5", "held": True, "detail": "0.62 > 0.5"},
        {"rule": "not below the champion", "held": False, "detail": "0.66 < 0.70"},
    ],
}


def git(*words: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Prefect server and an MLflow store for all tests of this file."""
    state = tmp_path_factory.mktemp("state")
    with prefect_test_harness(server_startup_timeout=120):
        yield state


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A committed repository with a graph of four stages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RLHF_STATE", str(tmp_path / ".state"))
    context.stages.cache_clear()
    Path("step.py").write_text(STEP)
    Path("data.txt").write_text("1")
    Path(".gitignore").write_text("/data\n/models\n/reports\n/.state\n/.runs\n/runs\n/metrics\n")
    Path("params.yaml").write_text("# kept\n" + yaml.safe_dump(Settings().model_dump(by_alias=True)))
    stages = {
        name: {"cmd": f"python step.py {name} {entry['outs'][0]}", **entry} for name, entry in GRAPH.items()
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    Path("recipes").mkdir()
    recipe = Settings().model_dump(by_alias=True) | {"seed": 5}
    Path("recipes/other.yaml").write_text(yaml.safe_dump(recipe))
    files = recipe | {"ingest": {"source": "files"}}
    Path("recipes/files.yaml").write_text(yaml.safe_dump(files))
    git("init", "--quiet")
    from dvc.repo import Repo

    Repo.init().close()
    git("add", ".")
    git("commit", "--quiet", "--message", "start")
    yield tmp_path
    context.stages.cache_clear()


@pytest.fixture
def run(repository: Path, services: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the flow; returns its state and its task runs by name."""
    monkeypatch.setenv("RLHF_STATE", str(services))
    for path, value in {"metrics/evaluation.json": EVALUATION, "runs/register.json": {"gate": GATE}}.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(json.dumps(value))

    def run() -> tuple[Any, dict[str, TaskRun]]:
        state = flows.rlhf.rlhf(return_state=True)
        flow_run = state.state_details.flow_run_id
        with get_client(sync_client=True) as client:
            only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
            found = client.read_task_runs(flow_run_filter=only)
        return state, {task_run.name: task_run for task_run in found}

    return run


def test_one_named_task_a_stage_with_the_edges_of_the_graph(run: Any) -> None:
    state, tasks = run()
    assert state.is_completed()
    names = {task_run.id: name for name, task_run in tasks.items()}
    edges = {
        name: {names[upstream.id] for upstream in task_run.task_inputs.get("wait_for", [])}
        for name, task_run in tasks.items()
    }
    assert edges == EDGES
    assert {task_run.state_name for task_run in tasks.values()} == {"Completed"}
    keys = {name: context.stage_key(name) for name in GRAPH}
    assert {name: task_run.task_version for name, task_run in tasks.items()} == keys
    assert all(f"key:{keys[name]}" in task_run.tags for name, task_run in tasks.items())


def test_what_did_not_change_is_up_to_date_and_what_was_deleted_comes_back(run: Any) -> None:
    run()
    Path("models/policy").unlink()
    _, tasks = run()
    states = {name: task_run.state_name for name, task_run in tasks.items()}
    assert states == {name: "Up to date" for name in GRAPH} | {"train": "Restored"}
    assert Path("models/policy").read_text() == "train\n"


def test_a_failed_stage_ends_both_runs_with_its_one_line(run: Any) -> None:
    import mlflow

    Path("data.txt").write_text("bad")
    state, tasks = run()
    assert state.is_failed()
    assert state.message == "prepare: data.txt: row 3: no number; write one"
    assert {name: task_run.state_name for name, task_run in tasks.items()} == {
        "ingest": "Completed",
        "prepare": "Failed",
    }
    assert not Path("data/prepared").exists()

    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(state.state_details.flow_run_id)
    [found] = mlflow.search_runs(
        experiment_names=[context.EXPERIMENT],
        filter_string=f"tags.prefect_flow_run = '{flow_run.id}'",
        output_format="list",
    )
    assert (found.info.run_name, found.info.status) == (flow_run.name, "FAILED")


def test_a_recipe_runs_in_a_worktree_and_leaves_the_checkout_alone(repository: Path) -> None:
    Path("step.py").write_text(STEP + "# not committed\n")
    before = git("status", "--porcelain"), Path("params.yaml").read_text(), git("stash", "list")
    tree = enter("other", plan("other", None, {"ppo.kl_coef": 0.2}))
    assert tree == repository / ".runs/other"
    settings = load_settings(tree / "params.yaml")
    assert (settings.seed, settings.ppo.kl_coef) == (5, 0.2)
    assert (tree / "step.py").read_text().endswith("# not committed\n")
    assert (git("status", "--porcelain"), Path("params.yaml").read_text(), git("stash", "list")) == before

    (tree / "dvc.lock").write_text("what it has run")
    Path("step.py").write_text(STEP + "# changed again\n")
    enter("other", plan("other", None, {}))
    assert (tree / "step.py").read_text().endswith("# changed again\n")
    assert (tree / "dvc.lock").read_text() == "what it has run"


def test_a_worktree_shares_the_cache(repository: Path) -> None:
    from dvc.repo import Repo

    tree = enter("other", plan("other", None, {}))
    with Repo() as here, Repo(str(tree)) as there:
        assert there.cache.local_cache_dir == here.cache.local_cache_dir == str(repository / ".dvc/cache")


def test_data_becomes_a_path_and_a_hash(repository: Path) -> None:
    Path("demonstrations.jsonl").write_text("abc")
    ingest = plan("files", "demonstrations.jsonl", {}).ingest
    assert ingest.path == str(repository / "demonstrations.jsonl")
    assert ingest.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--recipe", "nope"], "recipes/ has files, other"),
        (["--recipe", "files"], "add --data PATH"),
        (["--recipe", "files", "--data", "nope.jsonl"], "nope.jsonl: no such file or folder"),
        (["--data", "data.txt"], "ingest.source is builtin"),
        (["--set", "ppo.kl_coeff=1"], "did you mean 'ppo.kl_coef'"),
        (["--set", "ppo.kl_coef=-1"], "greater than or equal to 0, got -1"),
        (["--set", "ppo.kl_coef.x=1"], "no such parameter"),
        (["--set", "ppo.kl_coef"], "expected KEY=VALUE"),
        (["--set", "model.size=9T"], "'0.1M'"),
    ],
)
def test_bad_input_ends_in_one_line_before_anything_starts(
    words: list[str],
    says: str,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flows.rlhf, "rlhf", lambda *_, **__: pytest.fail("the flow was started"))
    before = Path("params.yaml").read_text()
    with pytest.raises(SystemExit) as ended:
        flows.rlhf.main(words)
    out, err = capsys.readouterr()
    assert ended.value.code == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
    assert out == ""
    assert Path("params.yaml").read_text() == before
    assert not Path(".runs").exists()


def test_set_changes_the_named_values_and_keeps_comments(repository: Path) -> None:
    words = ["ppo.learning_rate=7.5e-3", "collect.groups.expert=0.55", "ppo.missing_eos=null"]
    lines = write_params(Path("params.yaml"), plan(None, None, parse_changes(words)))
    assert f"ppo.learning_rate: {Settings().ppo.learning_rate} -> 0.0075" in lines
    assert len(lines) == 3
    written = yaml.safe_load(Path("params.yaml").read_text())
    assert written["ppo"]["learning_rate"] == 0.0075
    assert written["ppo"]["missing_eos"] is None
    assert written["collect"]["groups"]["expert"] == 0.55
    assert Path("params.yaml").read_text().startswith("# kept\n")
    assert write_params(Path("params.yaml"), load_settings()) == []


def test_a_model_judge_is_called_one() -> None:
    assert flows.rlhf._judge({"name": "gold", "kind": "gold"}) == "gold"
    assert flows.rlhf._judge({"name": "reward-model", "kind": "model"}) == "reward-model (model judge)"


def test_values_are_yaml() -> None:
    assert parse_changes(["a.b=3", "c=null", "d=word", "e=x=y"]) == {
        "a.b": 3,
        "c": None,
        "d": "word",
        "e": "x=y",
    }
    with pytest.raises(SettingsError, match="not valid YAML"):
        parse_changes(["a=["])


def test_a_progress_bar_does_not_flood_the_log() -> None:
    bar = b"".join(b"\r\x1b[32m%3d%%|##\x1b[0m" % percent for percent in range(100))
    raw = b"start\n" + bar + "\r100%|##…\n\n  \nloss 1.5\nlast".encode()
    assert list(stage.readable(io.BytesIO(raw))) == ["start", "  0%|##", "100%|##…", "loss 1.5", "last"]


def test_leaving_the_block_ends_the_stage_and_what_it_started(repository: Path) -> None:
    sleeper = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)"
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"sleep": {"cmd": f'python -c "{sleeper}"'}}}))
    with stage.dvc_repro("sleep") as process:
        said = next(line for line in stage.readable(process.stdout) if line.startswith("pid "))
        started = psutil.Process(int(said.split()[1]))
    psutil.wait_procs([started], timeout=30)
    assert not started.is_running() or started.status() == psutil.STATUS_ZOMBIE
    assert process.returncode != 0


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (["error: x: row 1: bad", "ERROR: failed to reproduce"], "sft: x: row 1: bad"),
        (["Traceback", "KeyError: 'a'", "ERROR: exited with 1"], "sft: KeyError: 'a'; exited with 1"),
        (["ERROR: exited with -9"], "sft: exited with -9"),
        ([], "sft: exit code 3"),
    ],
)
def test_error_line(said: list[str], line: str) -> None:
    assert stage.error_line("sft", said, 3) == line


def test_the_verdict_names_judge_count_and_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for folder in ("metrics", "runs"):
        Path(folder).mkdir()
    Path("metrics/evaluation.json").write_text(json.dumps(EVALUATION))
    Path("runs/register.json").write_text(json.dumps({"gate": GATE}))
    Path("params.yaml").write_text("seed: 1\n")
    flows.rlhf.show_verdict(tmp_path, None)
    out = capsys.readouterr().out
    ppo = next(line for line in out.splitlines() if line.strip().startswith("PPO"))
    assert ppo.split() == ["PPO", "0.660", "0.620", "–", "0.700", "500", "gold", "4.25"]
    assert "95 % interval" in out
    assert "not promoted: stays @challenger" in out
    assert "FAILED: not below the champion (0.66 < 0.70)" in out
    assert "reports/report.html" in out
    assert "| PPO | 0.660 | 0.620 – 0.700 | 500 | gold | 4.25 |" in flows.rlhf.verdict_markdown(tmp_path)
