"""Compare runs: `python -m flows.compare A B ...` (make compare RUNS="A B").

    python -m flows.compare kl-02 kl-05
    python -m flows.compare models:/rlhf-policy@champion models:/rlhf-policy/3 my-run

Each name is a run (its DVC experiment, or its worktree in .runs/), a version in the registry, or `.` for the
checkout. Prints which is best and whether that is certain; writes a page with the outputs side by side.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from prefect import State, flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, Failed

from flows.checkout import refuse_conflict
from flows.comparison_page import comparison_markdown, comparison_page, print_comparison
from flows.past_params import load_past
from flows.services.processes import running_environment
from flows.trace import fetch, find_version, outputs
from flows.workspace import RUNS, experiments
from rlhf.data.contracts import DEMONSTRATION, JUDGMENT, PROMPT
from rlhf.data.errors import DataError
from rlhf.data.files import read_json, written_beside
from rlhf.data.table import read_table
from rlhf.measures.comparison import Run, compare_runs
from rlhf.settings import SettingsError
from tasks.graph import flat
from tasks.runtime.errors import StageError, one_line_errors
from tasks.runtime.tracking import EXPERIMENT, connect

FOLDER = Path("reports/compare")
NEEDED = ("params.yaml", "dvc.lock", "metrics/evaluation.json", "data/judgments/judgments.parquet")
OPTIONAL = (
    "runs/register.json",
    "data/prepared/prompts.parquet",
    "data/prepared/demonstrations.parquet",
)


@flow(name="compare", persist_result=False)
def compare(runs: list[str]) -> State:
    """Compare runs: which is best, by how much, whether that is certain, and what was different.

    Args:
        runs: Names of two or more runs, DVC experiments or registered versions (models:/rlhf-policy/3).
    """
    try:
        connect()
        result = compare_named(runs)
    except (DataError, SettingsError, StageError) as error:
        return Failed(message=str(error))
    page = write_page(result, runs)
    create_markdown_artifact(
        key="comparison",
        markdown=f"{comparison_markdown(result)}\n\nOutputs side by side: `{page}`",
        description=", ".join(runs),
    )
    return Completed(message=" ".join(result["verdict"]))


def compare_named(names: list[str]) -> dict[str, Any]:
    """`rlhf.measures.comparison.compare_runs` of runs by name.

    Raises:
        DataError: fewer than two different names, or a run that is not there or was not judged.
    """
    if len(set(names)) < 2:
        raise DataError("name two or more runs; `dvc exp list` and `ls .runs` show those that are there")
    read = [read_run(name) for name in dict.fromkeys(names)]
    confidence = float(read[0].evaluation["confidence"])
    return compare_runs(read, confidence)


def read_run(name: str) -> Run:
    """What is known of a run; see `Run`.

    Raises:
        DataError: no such run, or its judgments are gone.
    """
    with files_of(name) as folder:
        refuse_conflict(folder / "dvc.lock")
        evaluation = read_json(folder / "metrics/evaluation.json")
        lock = outputs(yaml.safe_load((folder / "dvc.lock").read_text()))
        register = _json(folder / "runs/register.json")
        prompts = _table(folder / "data/prepared/prompts.parquet", PROMPT)
        demonstrations = _table(folder / "data/prepared/demonstrations.parquet", DEMONSTRATION)
        return Run(
            name=name,
            evaluation=evaluation,
            judgments=read_table(folder / "data/judgments/judgments.parquet", JUDGMENT),
            params=flat(load_past(folder / "params.yaml").model_dump(by_alias=True)),
            data={
                path: lock[path] for path in ("data/raw", "data/prepared", "data/comparisons") if path in lock
            },
            weights=lock.get("models/ppo", ""),
            gate=register.get("gate", {}),
            cost=register.get("total_cost", {}),
            topics={row["prompt"]: row["topic"] for row in prompts},
            writers={row["prompt"]: row["writer_id"] for row in demonstrations},
        )


@contextmanager
def files_of(name: str) -> Iterator[Path]:
    """A folder with the files of a run that a comparison reads: its worktree, or fetched from DVC."""
    known = experiments()
    commit = known.get(name)
    if name.startswith("models:/"):
        commit = commit_of_version(name)
    if commit is None:
        folder = Path(".") if name == "." else RUNS / name
        if not re.fullmatch(r"[\w-]+|\.", name) or not folder.is_dir():
            known_names = (
                ", ".join(sorted({*known, *(path.name for path in RUNS.glob("*"))})[:20]) or "none yet"
            )
            raise DataError(f"{name}: no such run, experiment or version; there are {known_names}")
        if missing := [path for path in NEEDED if not (folder / path).exists()]:
            raise DataError(f"{name}: not judged: {missing[0]} is missing; the run failed or ended early")
        yield folder
        return
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        for path in (*NEEDED, *OPTIONAL):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            if fetch(commit, path, folder / path) is None and path in NEEDED:
                raise DataError(
                    f"{name}: {path} of its commit {commit[:12]} is not in DVC's cache: the run ended before "
                    "it was judged, or `dvc pull` has to bring its outputs"
                )
        yield folder


def commit_of_version(uri: str) -> str:
    """The experiment's commit of a registered version.

    Raises:
        DataError: no such version, or it was not made by a run of the flow.
    """
    from mlflow import MlflowClient

    client, version = MlflowClient(), find_version(uri)
    parent = client.get_run(version.run_id).data.tags.get("mlflow.parentRunId")
    commit = client.get_run(parent).data.tags.get("dvc_commit") if parent else None
    if not commit:
        raise DataError(f"{uri}: not made by a run of the flow, so no experiment holds its judgments")
    return commit


def write_page(result: dict[str, Any], names: list[str]) -> Path:
    """Write the page; the runs name the file, so the same runs write the same file."""
    title = "-vs-".join(re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "checkout" for name in names)
    if len(title) > 80:
        title = f"{title[:60]}-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:8]}"
    page = FOLDER / f"{title}.html"
    with written_beside(page) as beside:
        beside.write_text(comparison_page(result))
    return page


def mlflow_address(names: list[str], server: str) -> str | None:
    """The page on which MLflow compares these runs; None where it does not know two of them."""
    import mlflow

    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    logged = []
    for name in names:
        tag = f"tags.dvc_experiment = '{name}'"
        if "'" not in name:
            logged += mlflow.search_runs([experiment.experiment_id], tag, max_results=1, output_format="list")
    if len(logged) < 2:
        return None
    runs = quote(json.dumps([run.info.run_id for run in logged]))
    return f"{server}/#/compare-runs?runs={runs}&experiments={quote(json.dumps([experiment.experiment_id]))}"


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _table(path: Path, contract: Any) -> Sequence[dict[str, Any]]:
    return read_table(path, contract) if path.exists() else []


def main(arguments: list[str] | None = None) -> None:
    """The command line; ends with exit code 1 and one line where a run cannot be compared."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a run, an experiment, a version, or `.`")
    names = parser.parse_args(arguments).runs
    with one_line_errors():
        running = running_environment()
        for name, value in running.items():
            os.environ.setdefault(name, value)
        connect()
        result = compare_named(names)
        page = write_page(result, names)
        print_comparison(result)
        print(f"page:   {page}")
        server = running.get("MLFLOW_TRACKING_URI")
        if server and (address := mlflow_address(names, server)):
            print(f"MLflow: {address}")


if __name__ == "__main__":
    main()
