"""A registered policy leads back to its run, data, labelers and code, and can be made again from them."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import yaml
from flow_repository import GRAPH, STEP, changed, write_graph
from flow_results import git

from flows import trace
from flows.workspace import experiments
from rlhf.data.contracts import COMPARISON, with_ids
from rlhf.data.errors import DataError
from rlhf.data.table import write_table
from tasks.runtime import stage as context
from tasks.runtime.tracking import EXPERIMENT

STEPS = STEP.replace('write_text(name + "\\n")', 'write_text(name + os.urandom(8).hex() * (name == "train"))')


RANKINGS = [
    {
        "prompt": "p",
        "completions": ["a", "b"],
        "ranking": [1, 2],
        "labeler_id": who,
        "labeler_group": "expert",
    }
    | {"guideline_version": version, "split": "train"}
    for who, version in (("ann", "2"), ("bob", "1"), ("ann", "2"))
]


def registered(state: Any, name: str) -> str:
    """A registered version as the stage `register` makes one: its run is a child of the run's parent."""
    import mlflow

    flow_run = str(state.state_details.flow_run_id)
    [parent] = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string=f"tags.prefect_flow_run = '{flow_run}'",
        output_format="list",
    )
    client = mlflow.MlflowClient()
    with mlflow.start_run(run_name="register", parent_run_id=parent.info.run_id) as child:
        pass
    client.create_registered_model(name)
    version = client.create_model_version(
        name, Path("models").resolve().as_uri(), child.info.run_id, tags={"weights": "abc"}
    )
    client.set_registered_model_alias(name, "champion", version.version)
    return f"models:/{name}@champion"


def test_ancestry_and_reproduction(run: Any) -> None:
    Path("step.py").write_text("import os\n" + STEPS)
    write_table("ranked.parquet", COMPARISON, with_ids(COMPARISON, RANKINGS, "test"))
    collect = {
        "cmd": "mkdir -p data/comparisons && cp ranked.parquet data/comparisons/comparisons.parquet",
        "deps": ["ranked.parquet"],
        "outs": ["data/comparisons"],
    }
    write_graph({"ingest": GRAPH["ingest"], "train": GRAPH["train"] | {"deps": ["data/raw"]}})
    stages = yaml.safe_load(Path("dvc.yaml").read_text())
    stages["stages"]["collect"] = collect
    Path("dvc.yaml").write_text(yaml.safe_dump(stages))
    git("add", ".")
    git("commit", "--quiet", "--message", "graph")
    base = git("rev-parse", "HEAD").strip()
    state = run(settings=changed(5))[0]
    uri = registered(state, "of-the-test")

    origin = trace.trace(uri)
    tree = Path(state.result())
    outs = trace.outputs(yaml.safe_load((tree / "dvc.lock").read_text()))
    assert origin["model"]["tags"]["weights"] == "abc"
    assert origin["runs"]["prefect flow run"] == str(state.state_details.flow_run_id)
    assert origin["experiment"]["name"] == tree.name
    assert origin["experiment"]["commit"] == experiments()[tree.name]
    assert origin["data"] == {path: outs[path] for path in ("data/raw", "data/comparisons")}
    assert origin["params"]["seed"] == 5
    assert origin["labelers"]["people"]["ann"] == {"group": "expert", "rankings": 2}
    assert origin["labelers"]["guideline versions"] == {"1": 1, "2": 2}
    shown = trace.show(origin)
    assert "of-the-test version 1 @champion" in shown
    assert outs["data/raw"] in shown

    for missing in ("nothing", "models:/nothing@champion", "models:/of-the-test/9", "models:/a/b"):
        with pytest.raises(DataError, match=missing):
            trace.find_version(missing)

    # what was cached does not count: `train` writes something else each time it runs
    rows = trace.reproduce(origin)
    assert {path for path, then, now in rows if then == now} == {"data/raw", "data/comparisons"}
    assert {path for path, then, now in rows if then != now} == {"models/policy"}
    assert not Path("checkpoints").exists()
    with chdir(Path(".runs", f"reproduce-{tree.name}")):
        assert context.git_commit() == base

    # nothing is said of rankings that the disk has changed
    [cached] = [
        path
        for path in Path(".dvc/cache/files").rglob("*")
        if path.is_file() and b"PAR1" in path.read_bytes()
    ]
    cached.chmod(0o644)
    cached.write_bytes(cached.read_bytes().replace(b"ann", b"bob"))
    cached.chmod(0o444)
    with pytest.raises(DataError, match=r"comparisons\.parquet of commit .* is damaged in DVC's cache"):
        trace.labelers(origin["experiment"]["commit"])
