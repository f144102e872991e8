"""The whole pipeline as one Prefect flow: the graph of dvc.yaml, one named task a stage.

    python -m flows.rlhf                                      # the built-in task, in this checkout
    python -m flows.rlhf --set ppo.kl_coef=0.1                # another parameter (written to params.yaml)
    python -m flows.rlhf --recipe qa-feedback --data FILE     # a recipe, in a git worktree of its own

DVC owns the graph and decides what has to run: a stage whose code, parameters and inputs did not change
ends at once. `dvc repro` does the same work without Prefect and gives the same files.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from prefect import State, flow, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.states import Failed
from prefect.utilities.urls import url_for

from flows.workspace import enter, parse_changes, plan, recipe_file
from rlhf.contracts import DataError, read_json
from rlhf.settings import SettingsError, load_settings
from tasks.context import PARENT_RUN, StageError, connect, one_line_errors, start_parent_run, state_dir
from tasks.stage import stage_task

NAMES = {"pretrained": "pretrained", "sft": "SFT", "ppo": "PPO"}


@flow(name="rlhf", persist_result=False)
def rlhf(
    recipe: str | None = None, data: str | None = None, changes: dict[str, Any] | None = None
) -> str | State:
    """Run every stage of dvc.yaml, in the order of the graph, and show the verdict.

    Args:
        recipe: Name of a params file in recipes/; empty for params.yaml of the checkout.
        data: File or folder that the recipe reads.
        changes: Parameters to change, as dotted keys: {"ppo.kl_coef": 0.1}.

    Returns:
        The folder in which the stages ran.
    """
    try:
        folder = enter(recipe, plan(recipe, data, changes or {}))
        with chdir(folder), mlflow_run(recipe):
            run_graph()
            markdown = verdict_markdown(Path("."))
            create_markdown_artifact(key="verdict", markdown=markdown, description="The verdict")
    except (DataError, SettingsError, StageError) as error:
        return Failed(message=str(error))
    return str(folder)


def run_graph() -> None:
    """Run DVC's graph, dependencies first, one stage at a time: they would compete for the same cores.

    Raises:
        StageError: a stage failed; those after it did not run.
    """
    from dvc.repo import Repo
    from networkx import topological_sort

    with Repo() as repo:
        graph = repo.index.graph  # edges go from a stage to what it depends on
    ended: dict[Any, State] = {}
    for node in reversed(list(topological_sort(graph))):
        before = [ended[upstream] for upstream in graph.successors(node)]
        ended[node] = stage_task(node.addressing)(wait_for=before, return_state=True)
        if not ended[node].is_completed():
            raise StageError(ended[node].message or f"{node.addressing}: ended {ended[node].name}")


@contextmanager
def mlflow_run(recipe: str | None) -> Iterator[None]:
    """The execution's MLflow run, parent of the stages' runs, named like the flow run."""
    from mlflow import MlflowClient

    connect()
    client, name = MlflowClient(), runtime.flow_run.name
    parent = start_parent_run(name, client, f"prefect-{runtime.flow_run.id}")
    client.set_tag(parent, "prefect_flow_run", runtime.flow_run.id)
    client.set_tag(parent, "prefect_url", url_for("flow-run", runtime.flow_run.id) or "")
    client.set_tag(parent, "recipe", recipe or "")
    markdown = f"Run `{name}`, id `{parent}`, in the experiment `rlhf-pipeline`; `make mlflow` opens MLflow."
    create_markdown_artifact(key="mlflow-run", markdown=markdown, description="Curves, samples, datasets")
    os.environ[PARENT_RUN] = parent
    status = "KILLED"
    try:
        yield
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        del os.environ[PARENT_RUN]
        client.set_terminated(parent, status)


def verdict_rows(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: how often each policy was preferred to the reference."""
    evaluation = read_json(folder / "metrics/evaluation.json")
    judge, count = evaluation["judge"], evaluation["n"]
    percent = load_settings(folder / "params.yaml").evaluate.confidence * 100
    header = ["policy", "preferred to the reference", f"{percent:g} % interval", "n", "judge", "KL, nats"]
    rows = []
    for policy, name in NAMES.items():
        row = evaluation["policies"].get(policy)
        if row:
            interval = f"{row['low']:.3f} – {row['high']:.3f}"
            kl = "" if row.get("kl") is None else f"{row['kl']:.2f}"
            rows.append([name, f"{row['rate']:.3f}", interval, str(count), _judge(judge), kl])
    return header, rows


def gate_lines(folder: Path) -> list[str]:
    """Whether the policy was promoted, and which rule held or failed, one line each."""
    gate = read_json(folder / "runs/register.json").get("gate", {})
    to = f"version {gate.get('version')} is now @champion" if gate.get("promoted") else "stays @challenger"
    lines = [f"{'promoted' if gate.get('promoted') else 'not promoted'}: {to}"]
    for rule in gate.get("rules", []):
        lines.append(f"{'held' if rule['held'] else 'FAILED'}: {rule['rule']} ({rule['detail']})")
    return lines


def verdict_markdown(folder: Path) -> str:
    """Table and gate as Markdown, for the Prefect artifact."""
    header, rows = verdict_rows(folder)
    table = [header, ["---"] * len(header), *rows]
    text = "\n".join("| " + " | ".join(row) + " |" for row in table)
    return text + "\n\n" + "\n".join(f"- {line}" for line in gate_lines(folder))


def show_verdict(folder: Path, recipe: str | None) -> None:
    """Print the table, the gate, and where to look further."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    header, rows = verdict_rows(folder)
    table = Table(*header, box=box.SIMPLE_HEAD, title="Preferred to the human-written reference")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    first, *rules = gate_lines(folder)
    console.print(first, markup=False)
    for rule in rules:
        console.print(f"  {rule}", markup=False)
    of = f" RECIPE={recipe}" if recipe else ""
    for what, where in {
        "report": os.path.relpath(folder / "reports/report.html"),
        "Prefect": "make prefect",
        "MLflow": "make mlflow",
        "Data Docs": f"make docs{of}",
    }.items():
        console.print(f"{what + ':':<11}{where}", markup=False)


def _judge(judge: dict[str, str]) -> str:
    name, kind = judge["name"], judge["kind"]
    return name if name == kind else f"{name} ({kind} judge)"


def _calm_logs() -> None:
    """Drop what Prefect says twice or what is of no use to a person who follows the run."""
    said = ("Starting temporary server", "Stopping temporary server", "Task run failed with state")
    for name in ("prefect", "prefect.task_runs"):
        logging.getLogger(name).addFilter(lambda record: not record.getMessage().startswith(said))


def _api() -> Any:
    """Settings to reach Prefect: the server that the user named, else a temporary one with lasting state."""
    if PREFECT_API_URL.value():
        return nullcontext()
    home = state_dir() / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    first = "" if (home / "prefect.db").exists() else "; the first one makes its database, half a minute"
    print(f"starting a temporary Prefect server{first}", flush=True)
    return temporary_settings({PREFECT_HOME: home, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120})


def main(words: list[str] | None = None) -> None:
    """The command line; ends with exit code 1 and one line when a stage fails or the input is bad."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.rlhf",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Parameters: `python -m rlhf.settings` lists them all. To watch a run in the Prefect UI, "
        "start `make prefect` first and set PREFECT_API_URL=http://127.0.0.1:4200/api",
    )
    parser.add_argument("--recipe", metavar="NAME", help="a params file in recipes/, by name or path")
    parser.add_argument("--data", metavar="PATH", help="file or folder with the data that the recipe reads")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change a parameter; may be repeated"
    )
    arguments = parser.parse_args(words)
    # a plain SIGTERM would leave the temporary server behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: terminated"))
    with one_line_errors():
        changes = parse_changes(arguments.set)
        plan(arguments.recipe, arguments.data, changes)  # bad input ends here, before a server starts
        _calm_logs()
        with _api():
            try:
                state = rlhf(arguments.recipe, arguments.data, changes, return_state=True)
            except KeyboardInterrupt:
                sys.exit("error: interrupted; the next run goes on from the last checkpoint")
        if not state.is_completed():
            raise StageError(state.message or f"the run ended {state.name}")
        recipe = recipe_file(arguments.recipe).stem if arguments.recipe else None
        show_verdict(Path(str(state.result())), recipe)


if __name__ == "__main__":
    main()
