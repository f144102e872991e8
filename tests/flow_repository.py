"""A small repository with a graph of two stages, and runs of the flow over it, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from flow_results import EVALUATION, GATE, git

from rlhf.data.files import write_json
from rlhf.settings import Settings, check_settings
from tasks.runtime import stage as context

# Prefect is imported where it is used: every test session loads this file.

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


SMALL = {name: GRAPH[name] for name in ("ingest", "prepare")}


def write_graph(graph: dict[str, Any]) -> None:
    stages = {
        name: {"cmd": f"python step.py {name} {entry['outs'][0]}", **entry} for name, entry in graph.items()
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    context.stages.cache_clear()


def changed(seed: int) -> Settings:
    return check_settings({"seed": seed}, "test")


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Prefect server and a state folder for all tests of the session."""
    from conftest import PATIENCE
    from prefect.testing.utilities import prefect_test_harness

    state = tmp_path_factory.mktemp("state")
    with prefect_test_harness(server_startup_timeout=int(PATIENCE)):
        yield state


@pytest.fixture
def small_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A committed repository with a graph of two stages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RLHF_STATE", str(tmp_path / ".state"))
    context.stages.cache_clear()
    Path("step.py").write_text(STEP)
    Path("data.txt").write_text("1")
    Path(".gitignore").write_text("/data\n/models\n/reports\n/checkpoints\n/.state\n/.runs\n")
    # what the stages would write; here it is the same for every run
    write_json("metrics/evaluation.json", EVALUATION)
    write_json("runs/register.json", {"gate": GATE})
    Path("params.yaml").write_text("# kept\n" + yaml.safe_dump(Settings().model_dump(by_alias=True)))
    write_graph(SMALL)
    recipes = {"other": {"seed": 5}, "files": {"seed": 5, "ingest": {"source": "files"}}}
    for name, delta in recipes.items():
        Path("recipes", name).mkdir(parents=True)
        Path("recipes", name, "params.yaml").write_text(yaml.safe_dump(delta))
    git("init", "--quiet")
    from dvc.repo import Repo

    Repo.init().close()
    git("add", ".")
    git("commit", "--quiet", "--message", "start")
    yield tmp_path
    context.stages.cache_clear()


@pytest.fixture
def run(small_repository: Path, services: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the flow; returns its state, its task runs by name, and the flow run."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    import flows.pipeline

    monkeypatch.setenv("RLHF_STATE", str(services))

    def run(name: str | None = None, **parameters: Any) -> tuple[Any, dict[str, Any], Any]:
        named = flows.pipeline.rlhf.with_options(flow_run_name=name)
        state = named(return_state=True, **parameters)
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(state.state_details.flow_run_id)
            only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
            task_runs = client.read_task_runs(flow_run_filter=only)
        return state, {task_run.name: task_run for task_run in task_runs}, flow_run

    return run
