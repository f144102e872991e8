"""A run that fails, is cancelled or ends early shows nothing of another's, and says how far it came.

The checkout holds a finished result. Runs with other parameters then end early in every way at every stage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import mlflow
import pytest
import yaml
from conftest import PATIENCE, dvc
from flow_results import EVALUATION, GATE, git
from mlflow.exceptions import MlflowException
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.testing.utilities import prefect_test_harness

import flows.dvc_process
import flows.links
import flows.pipeline
import flows.run
from flows.dvc_process import readable
from flows.run_state import RunState, read_state
from flows.services.pages import Handler
from flows.workspace import bring, experiments, snapshot
from rlhf.settings import Settings, check_settings
from tasks.runtime import stage as context
from tasks.runtime.tracking import EXPERIMENT

STEP = f"""
import json, pathlib, sys, time
import yaml
name, outs = sys.argv[1], sys.argv[2:]
seed = yaml.safe_load(pathlib.Path("params.yaml").read_text())["seed"]
how, _, where = pathlib.Path("plan.txt").read_text().partition(" ")
def write(out):
    path = pathlib.Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {{"seed": seed}}
    if out == "metrics/evaluation.json":
        values |= {EVALUATION!r}
    if out.startswith("runs/"):
        values |= {{"run_id": "", "git_commit": "", "figures": {{}}, "gate": {GATE!r}}}
    path.write_text(json.dumps(values))
if where == name:
    write(outs[0])
    print("waiting", flush=True)
    time.sleep(600) if how == "cancel" else sys.exit("error: row 3: no number; write one")
for out in outs:
    write(out)
"""
OUTS: dict[str, list[str]] = {
    "validate": ["reports/validation/prepared/index.html", "data/prepared"],
    "train": ["models/policy", "metrics/train.json", "runs/train.json"],
    "register": ["reports/report.html", "metrics/evaluation.json", "runs/register.json"],
}
AFTER = {"validate": [], "train": ["data/prepared"], "register": ["models/policy"]}
STAGES = list(OUTS)
THEIRS = 1  # the seed of the result in the checkout
# Those of the runs that end early; of each kind, the later ones have stages of the earlier in the run cache.
SEEDS = {"fail": 2, "cancel": 3, "until": 4}
CASES = [(how, where) for how in SEEDS for where in STAGES if (how, where) != ("until", STAGES[-1])]


@dataclass(frozen=True)
class Ended:
    """A run that ended early: its worktree, its ids, and the stages that ended in it."""

    tree: Path
    flow_run: str
    stages: list[str]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Ended]]:
    """Every case's run, beside a finished result in the checkout, which is the working directory."""
    with pytest.MonkeyPatch.context() as patch, prefect_test_harness(server_startup_timeout=int(PATIENCE)):
        patch.chdir(tmp_path_factory.mktemp("checkout"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("RLHF_STATE", str(tmp_path_factory.mktemp("state")))
        patch.setattr(flows.dvc_process, "readable", _interrupted)
        Path(".gitignore").write_text("/data\n/models\n/metrics\n/reports\n/runs\n/.runs\n")
        Path("step.py").write_text(STEP)
        Path("plan.txt").write_text("")
        Path("params.yaml").write_text(yaml.safe_dump(Settings().model_dump(by_alias=True)))
        graph = {name: _stage(name, outs) for name, outs in OUTS.items()}
        Path("dvc.yaml").write_text(yaml.safe_dump({"stages": graph}, sort_keys=False))
        context.stages.cache_clear()
        git("init", "--quiet")
        dvc("init", "--quiet")
        git("add", ".")
        git("commit", "--quiet", "--message", "start")
        before, done = snapshot(), _run("theirs", THEIRS)
        assert bring(done, before)
        runs = {}
        for how, where in CASES:
            Path("plan.txt").write_text(f"{how} {where}" if how != "until" else "")
            tree = _run(f"{how}-{where}", SEEDS[how], until=where if how == "until" else None)
            count = STAGES.index(where) + (how == "until")
            runs[how, where] = Ended(tree, _flow_run(tree), STAGES[:count])
        yield runs
    context.stages.cache_clear()


def _stage(name: str, outs: list[str]) -> dict[str, Any]:
    metrics = [out for out in outs if out.endswith(".json")]
    others = [out for out in outs if out not in metrics]
    command = " ".join(["python step.py", name, *outs])
    return {
        "cmd": command,
        "deps": ["step.py", *AFTER[name]],
        "params": ["seed"],
        "outs": others,
        "metrics": metrics,
    }


def _run(name: str, seed: int, until: str | None = None) -> Path:
    """Run the flow, however it ends; its worktree."""
    settings = check_settings({"seed": seed}, "test")
    try:
        flows.pipeline.rlhf.with_options(flow_run_name=name)(settings, until=until, return_state=True)
    except KeyboardInterrupt:
        assert name.startswith("cancel")
    return Path(".runs", name).resolve()


def _interrupted(stream: Any) -> Iterator[str]:
    for line in readable(stream):
        if line == "waiting" and "cancel" in Path("plan.txt").read_text():
            raise KeyboardInterrupt
        yield line


def _parent(name: str) -> Any:
    chosen = f"attributes.run_name = '{name}'"
    [run] = mlflow.search_runs(experiment_names=[EXPERIMENT], filter_string=chosen, output_format="list")
    return run


def _flow_run(tree: Path) -> str:
    return str(_parent(tree.name).data.tags["prefect_flow_run"])


@pytest.fixture(params=CASES, ids=" ".join)
def case(request: pytest.FixtureRequest, ended: dict[tuple[str, str], Ended]) -> tuple[str, str, Ended]:
    how, where = request.param
    return how, where, ended[how, where]


def test_a_worktree_holds_outputs_of_its_own_stages_alone(case: tuple[str, str, Ended]) -> None:
    how, where, run = case
    written = [Path(out) for name in run.stages for out in OUTS[name]]
    if how != "until":
        written.append(Path(OUTS[where][0]))  # what the stage had written when it ended
    outs = [Path(out) for outs in OUTS.values() for out in outs]
    assert {out for out in outs if (run.tree / out).exists()} == set(written)
    assert {json.loads((run.tree / out).read_text())["seed"] for out in written} <= {SEEDS[how]}
    lock = run.tree / "dvc.lock"
    locked = yaml.safe_load(lock.read_text())["stages"] if lock.exists() else {}
    assert list(locked) == run.stages


def test_the_links_name_its_own_pages_and_say_how_it_ended(case: tuple[str, str, Ended]) -> None:
    how, where, run = case
    mine = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run.flow_run)]),
        key=ArtifactFilterKey(any_=["links"]),
    )
    with get_client(sync_client=True) as client:
        [card] = client.read_artifacts(artifact_filter=mine)
        shown = client.read_flow_run(UUID(run.flow_run)).state
    lines = dict(line.removeprefix("- ").split(": ", 1) for line in str(card.data).splitlines())
    missing = ", ".join(STAGES[len(run.stages) :])
    texts = {
        "fail": f"failed in {where}",
        "cancel": "cancelled",
        "until": f"partial: ended after {where}, as it was asked to",
    }
    assert lines["state"] == f"{texts[how]}; without results: {missing}"
    assert shown
    assert (
        shown.name == {"fail": "Failed", "cancel": "Crashed", "until": "Partial"}[how]
    )  # cancelled by Ctrl-C
    assert ("report.html" in lines["report"]) == (run.tree / "reports/report.html").exists()
    assert ("index.html" in lines["Data Docs"]) == (run.tree / OUTS["validate"][0]).exists()
    assert ("DVC experiment" in lines) == (how == "until")


def test_the_list_of_pages_has_its_own_alone(case: tuple[str, str, Ended]) -> None:
    *_, run = case
    served = {path for path in run.tree.glob("reports/**/*.html") if path.is_file()}
    handler = Handler.__new__(Handler)
    handler.runs = run.tree.parent
    for path in OUTS["validate"][0], OUTS["register"][0]:
        file = Path(handler.translate_path(f"/{run.tree.name}/{path}"))
        assert file.exists() == (run.tree / path in served)
    state = read_state(run.tree)
    assert state
    assert (state.ended, state.stages) == (run.stages, STAGES)
    assert state.finished


def test_mlflow_has_no_figures_and_the_state(case: tuple[str, str, Ended]) -> None:
    how, _, run = case
    parent = _parent(run.tree.name)
    assert parent.data.metrics == {}
    status = {
        "fail": ("FAILED", "failed"),
        "cancel": ("KILLED", "cancelled"),
        "until": ("FINISHED", "partial"),
    }
    assert (parent.info.status, parent.data.tags["state"]) == status[how]
    assert parent.data.tags["stages"].split() == run.stages


def test_experiments_are_of_what_ended_and_show_no_other_figures(ended: dict[tuple[str, str], Ended]) -> None:
    early = {run.tree.name for (how, _), run in ended.items() if how == "until"}
    assert set(experiments()) == {"theirs", *early}
    shown = json.loads(dvc("exp", "show", "--json"))
    rows = {
        row["revs"][0]["name"]: row["revs"][0]["data"]["metrics"]
        for base in shown
        for row in base["experiments"] or []
    }
    figures = {
        name: {path for path, values in metrics.items() if values.get("data")}
        for name, metrics in rows.items()
    }
    written = {name: {out for out in outs if out.endswith(".json")} for name, outs in OUTS.items()}
    assert figures == {
        "theirs": set().union(*written.values()),
        "until-validate": set(),
        "until-train": written["train"],
    }
    for name in early:
        message = git("log", "-1", "--format=%s", experiments()[name])
        assert message.startswith(f"{name}: partial: ended after {name.removeprefix('until-')}")


def test_the_terminal_shows_no_verdict_of_a_run_that_ended_early(
    ended: dict[tuple[str, str], Ended], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("plan.txt").write_text("")
    change = f"seed={SEEDS['until']}"
    flows.run.main(["--name", "again", "--set", change, "--until", "validate", "--aside"])
    printed = capsys.readouterr().out
    assert "partial: ended after validate, as it was asked to; without results: train, register" in printed
    assert "preferred" not in printed


def test_the_result_of_a_run_that_ended_early_leaves_none_of_another(
    ended: dict[tuple[str, str], Ended],
) -> None:
    Path("plan.txt").write_text("")
    assert Path("reports/report.html").exists()
    bring(ended["until", "train"].tree, snapshot())
    assert json.loads(Path("models/policy").read_text())["seed"] == SEEDS["until"]
    assert not any(Path(out).exists() for out in OUTS["register"])


def test_a_run_ends_in_its_own_way_while_mlflow_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        asked.append(True)
        raise MlflowException("no connection")

    asked: list[bool] = []
    prefect = SimpleNamespace(read_artifacts=lambda **_: [SimpleNamespace(id="card")], update_artifact=None)
    monkeypatch.setattr(flows.links, "MlflowClient", away)
    monkeypatch.setattr(flows.links, "get_client", lambda **_: nullcontext(prefect))
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://127.0.0.1:1")
    monkeypatch.setattr(mlflow, "get_run", away)
    state = RunState("run", began=0.0, state="cancelled")
    flows.links.publish_state(state, str(UUID(int=1)), "parent", tmp_path)
    assert read_state(tmp_path) == state
    assert len(asked) == 2


def test_a_partial_run_in_which_no_stage_ended_says_so():
    assert str(RunState("run", 0.0, state="partial", stages=["ingest"])) == (
        "partial: ended early, as it was asked to; without results: ingest"
    )
