"""The flow and its tasks, over a small graph of its own in a temporary repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flow_repository import GRAPH, SMALL, STEP, changed, write_graph
from flow_results import GATE, git
from prefect.client.orchestration import get_client

import flows.pipeline
import flows.run
from flows import stages as stage
from flows.workspace import bring, enter, experiments, snapshot, up_to_date
from rlhf.data.files import write_json
from rlhf.settings import Settings, check_settings, load_settings
from tasks.runtime import registry
from tasks.runtime import stage as context
from tasks.runtime.tracking import EXPERIMENT

EDGES = {
    "ingest": set(),
    "prepare": {"ingest"},
    "train": {"prepare"},
    "evaluate": {"prepare", "train"},
}


def test_a_form_sends_no_secret_elsewhere(run: Any) -> None:
    """Whoever may fill in the form may not choose what of the worker's environment goes where."""
    write_graph(GRAPH)
    llm = {"url": "https://evil.example/v1", "model": "m", "key_variable": "AWS_SECRET_ACCESS_KEY"}
    state, tasks, _ = run(settings=check_settings({"evaluate": {"judges": ["llm"], "llm": llm}}, "test"))
    assert state.is_failed()
    assert "prompts may not be sent to evil.example" in str(state.message)
    assert tasks == {}


def test_one_named_task_a_stage_with_the_edges_of_the_graph(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graph(GRAPH)
    state, tasks, _ = run()
    assert state.is_completed()
    names = {task_run.id: name for name, task_run in tasks.items()}
    edges = {
        name: {names[upstream.id] for upstream in task_run.task_inputs.get("wait_for", [])}
        for name, task_run in tasks.items()
    }
    assert edges == EDGES
    assert {task_run.state_name for task_run in tasks.values()} == {"Completed"}
    monkeypatch.chdir(state.result())
    keys = {name: context.stage_key(name) for name in GRAPH}
    assert {name: task_run.task_version for name, task_run in tasks.items()} == keys
    assert all(f"key:{keys[name]}" in task_run.tags for name, task_run in tasks.items())


def test_a_run_has_one_name_in_three_tools_and_leaves_the_checkout_alone(run: Any) -> None:
    import mlflow

    Path("step.py").write_text(STEP + "# not committed\n")
    Path("new.txt").write_text("not in git yet")
    before = git("status", "--porcelain"), git("stash", "list"), Path("params.yaml").read_text()
    enter("a-name", "another-run", Settings())
    state, _, flow_run = run(name="a name", settings=changed(5), recipe="other")
    assert flow_run.name == f"a-name-{str(flow_run.id)[:8]}"
    assert (git("status", "--porcelain"), git("stash", "list"), Path("params.yaml").read_text()) == before

    tree = Path(state.result())
    assert tree == Path(".runs", flow_run.name).resolve()
    assert load_settings(tree / "params.yaml").seed == 5
    assert (tree / "step.py").read_text().endswith("# not committed\n")
    assert (tree / "new.txt").exists()

    commit = experiments()[flow_run.name]
    [parent] = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string=f"tags.prefect_flow_run = '{flow_run.id}'",
        output_format="list",
    )
    assert (parent.info.run_name, parent.info.status) == (flow_run.name, "FINISHED")
    tags = parent.data.tags
    assert (tags["dvc_experiment"], tags["dvc_commit"], tags["recipe"]) == (flow_run.name, commit, "other")
    message = git("log", "-1", "--format=%B", commit)
    assert str(flow_run.id) in message
    assert parent.info.run_id in message
    assert git("rev-parse", f"{commit}^") == git("rev-parse", "HEAD")
    assert "seed: 5" in git("show", f"{commit}:params.yaml")
    assert git("show", f"{commit}:dvc.lock") == (tree / "dvc.lock").read_text()


def test_what_did_not_change_is_not_run_again(
    run: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, _, _ = run()
    assert bring(Path(state.result()), snapshot()) == []
    assert Path("data/prepared").read_text() == "prepare\n"
    assert up_to_date(load_settings())
    assert not up_to_date(changed(5))
    assert flows.run.lost_from_registry()  # the committed record names a version that nobody registered
    assert "but the registry has no version 3 of rlhf-policy" in capsys.readouterr().out
    here = registry.Standing("rlhf-policy", "3", False, "3", "", lost="")
    monkeypatch.setattr(flows.run, "known_standing", lambda: here)
    flows.run.main([])
    assert capsys.readouterr().out.startswith("nothing to do")
    Path("data.txt").write_text("2")
    assert not up_to_date(load_settings())
    Path("data.txt").write_text("1")
    _, tasks, _ = run()
    assert {task_run.state_name for task_run in tasks.values()} == {"Up to date"}
    _, tasks, _ = run(settings=changed(5))
    states = {name: task_run.state_name for name, task_run in tasks.items()}
    assert states == {"ingest": "Completed", "prepare": "Up to date"}
    Path("dvc.lock").unlink()
    _, tasks, _ = run()
    assert {task_run.state_name for task_run in tasks.values()} == {"Restored"}


def test_the_task_of_a_stage_shows_the_progress_that_it_reports(run: Any) -> None:
    event = {"stage": "ingest", "step": 3, "steps": 4, "left": 1.0, "figures": {"loss": 0.5}}
    report = f"import os\nprint({json.dumps(event)!r}, file=open(os.environ['RLHF_PROGRESS'], 'a'))\n"
    Path("step.py").write_text(report + STEP)
    _, tasks, _ = run()
    with get_client(sync_client=True) as client:
        shown = {
            artifact.key: artifact for artifact in client.read_artifacts() if artifact.type == "progress"
        }
    progress = shown["progress-ingest"]
    assert (progress.data, progress.description) == (75.0, "ingest: step 3 of 4, loss 0.5, 0:00:01 left")
    assert progress.task_run_id == tasks["ingest"].id
    assert "progress-prepare" not in shown  # its step reported for another stage


def test_a_failed_stage_ends_both_runs_with_its_one_line(run: Any) -> None:
    import mlflow

    Path("data.txt").write_text("bad")
    state, tasks, flow_run = run()
    assert state.is_failed()
    assert state.message == "prepare: data.txt: row 3: no number; write one"
    assert {name: task_run.state_name for name, task_run in tasks.items()} == {
        "ingest": "Completed",
        "prepare": "Failed",
    }
    assert not Path(".runs", flow_run.name, "data/prepared").exists()
    assert flow_run.name not in experiments()
    [parent] = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string=f"tags.prefect_flow_run = '{flow_run.id}'",
        output_format="list",
    )
    assert (parent.info.run_name, parent.info.status) == (flow_run.name, "FAILED")


def test_only_the_data_is_validated(run: Any) -> None:
    write_graph({"ingest": GRAPH["ingest"], "validate": GRAPH["prepare"], "train": GRAPH["train"]})
    state = flows.pipeline.validate_data(return_state=True)
    tree = Path(state.result())
    assert (tree / "data/prepared").exists()
    assert not (tree / "models/policy").exists()


def test_a_result_that_the_registry_lost_is_registered_again(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC would call the stage up to date, or restore it: what it did in the registry is no output."""
    lost = "version 3 of rlhf-policy"
    monkeypatch.setattr(
        stage,
        "standing",
        lambda: registry.Standing("rlhf-policy", "3", False, "3", "", lost) if lost else None,
    )
    write_json("runs/register.json", {"gate": GATE, "run_id": "r", "git_commit": "c", "figures": {}})
    write_graph(SMALL | {"register": {"deps": ["data/prepared"], "outs": ["data/registered"]}})

    def states() -> list[str | None]:
        state, tasks, _ = run(until="register")
        assert bring(Path(state.result()), before) == []
        return [tasks[name].state_name for name in ("ingest", "prepare", "register")]

    before = snapshot()
    assert states() == ["Completed"] * 3
    before = snapshot()
    assert states() == ["Up to date", "Up to date", "Completed"]
    lost = ""
    assert states() == ["Up to date"] * 3
    Path("dvc.lock").unlink()
    before = snapshot()
    assert states() == ["Restored"] * 3
    Path("dvc.lock").unlink()
    lost = "@champion of rlhf-policy"
    assert states() == ["Restored", "Restored", "Completed"]
