"""The whole pipeline as one Prefect flow: the graph of dvc.yaml, a named task for each stage.

What the stages do, in their order:

    ingest                 rows come in from the built-in task or from a user's files,
    prepare                are brought to the contracts and split by prompt,
    validate               and let in by Great Expectations, or the run ends here.
    base                   A base model is trained on the texts of the corpus, or brought in,
    sft                    and fine-tuned on the demonstrations: the SFT policy.
    collect                It answers prompts several times, and labelers rank the answers;
    validate-comparisons   Great Expectations lets these rankings in as well.
    reward                 A reward model learns the rankings,
    ppo                    and PPO trains the policy on its rewards, held close to the SFT policy.
    evaluate               Judges compare every policy's outputs with the references of test prompts;
    register               the gate decides whether the policy becomes @champion, and the report says why.

DVC owns the graph and decides what has to run: a stage whose code, parameters and inputs did not change ends
at once. Every run works in a git worktree of its own, `.runs/<name>`, and ends as a DVC experiment; flow run,
experiment and MLflow run have the same name. `dvc repro` does the same work without Prefect and gives the
same files. The command is in flows/run.py.
"""

# No `from __future__ import annotations`: `rlhf.serve(...)` hands the flow to the run's process by value, and
# names in annotations that are text would not be found there.
import os
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.states import Completed, Failed
from prefect.utilities.urls import url_for

from flows.checkout import refuse_checkout
from flows.dvc_process import Dvc
from flows.form import FormSettings
from flows.links import KEY, links, publish_state
from flows.machine import clear_dead, end_processes, end_stage_runs, execution, recorded
from flows.mlflow_views import write_views
from flows.params import check_endpoint, complete, with_files
from flows.peek import lines, look
from flows.run_state import RunState
from flows.stages import stage_task
from flows.tracking import log_parameters, log_result
from flows.upfront import refuse
from flows.verdict import verdict_markdown
from flows.workspace import dvc_said, enter, free_name, save_experiment
from rlhf.data.errors import DataError
from rlhf.report.markdown import fenced
from rlhf.settings import Settings, SettingsError
from tasks.runtime.errors import StageError, printable
from tasks.runtime.faults import machine_fault
from tasks.runtime.locks import alone
from tasks.runtime.tracking import PARENT_RUN, connect, start_parent_run

DEFAULTS = FormSettings()  # type: ignore[call-arg]


@flow(name="rlhf", persist_result=False)
def rlhf(
    settings: FormSettings = DEFAULTS,
    data: str | None = None,
    recipe: str | None = None,
    until: str | None = None,
) -> str | State:
    """Run every stage of dvc.yaml, in the order of the graph, and show the verdict.

    Args:
        settings: Parameters of the run; what is left out is as in the params file.
        data: File or folder that the stage ingest reads, where ingest.source is not builtin.
        recipe: Name of the recipe that the parameters come from; a tag to filter by.
        until: The last stage to run; with evaluate nothing enters the registry.

    Returns:
        The folder in which the stages ran.
    """
    return _run(settings, data, recipe, last=until)


@flow(name="validate-data", persist_result=False)
def validate_data(settings: FormSettings = DEFAULTS, data: str | None = None) -> str | State:
    """Read the data, bring it to the contracts and check it against every rule; nothing is trained.

    Args:
        settings: Parameters; only seed, ingest, prepare and collect matter here.
        data: File or folder that the stage ingest reads, where ingest.source is not builtin.

    Returns:
        The folder in which the stages ran.
    """
    return _run(settings, data, None, last="validate")


def _show_data(settings: Settings) -> None:
    """Show in Prefect what the user's files were recognised as and hold, before a rule decides on them."""
    create_markdown_artifact(
        key="data",
        markdown=fenced(printable(line) for line in lines(look(settings), settings)),
        description="What the data were recognised as, and what they hold",
    )


def _run(settings: Settings, data: str | None, recipe: str | None, last: str | None) -> str | State:
    """The body of both flows: the stages up to `last`, run in a worktree that is saved as an experiment."""
    flow_run = str(runtime.flow_run.id)
    try:
        with recorded() as note:
            refuse_checkout()
            settings = with_files(complete(settings, recipe), data, "the parameters")
            check_endpoint(settings)
            if last == "validate" and settings.ingest.source == "files":
                _show_data(settings)
            for line in refuse(settings, last):
                get_run_logger().warning(line)
            with alone("mlflow"):  # two first runs at once would both make its database
                connect()
                write_views()
            for record in clear_dead():
                get_run_logger().info(f"run {record.name!r} was killed; what it left is ended")
            with alone("worktrees"):
                name = _one_name(flow_run)
                folder = enter(name, flow_run, settings)
                note(name=name, folder=str(folder))
            state = RunState(name, began=time.time())
            with (
                chdir(folder),
                mlflow_run(name, flow_run, _tags(settings, recipe, last)) as parent,
                state_published(state, flow_run, parent, folder),
            ):
                note(mlflow_run=parent)
                log_parameters(parent, settings)
                run_graph(state, folder, last)
                if state.whole:
                    markdown = verdict_markdown(folder)
                    create_markdown_artifact(key="verdict", markdown=markdown, description="The verdict")
                if state.whole or "evaluate" in state.ended:
                    log_result(parent, folder)
                finish(state, flow_run, parent, folder)
    except (DataError, SettingsError, StageError) as error:
        return Failed(message=str(error))
    except Exception as error:
        if fault := machine_fault(error):
            return Failed(message=fault)
        raise
    if state.whole:
        return str(folder)
    return Completed(name="Partial", message=str(state), data=str(folder))


def run_graph(state: RunState, folder: Path, last: str | None = None) -> None:
    """Run DVC's graph, dependencies first, one stage at a time: they would compete for the same cores.

    Args:
        state: the stages that ended, and the stage that failed, are noted here.
        folder: the run's worktree, which is the working directory.
        last: run only this stage and what it depends on.

    Raises:
        StageError: a stage failed; those after it did not run. Or there is no stage `last`.
    """
    from dvc.repo import Repo
    from networkx import descendants, topological_sort

    with dvc_said(), Repo() as repo:
        graph = repo.index.graph  # edges go from a stage to what it depends on
    state.stages = [node.addressing for node in reversed(list(topological_sort(graph)))]
    state.save(folder)
    if last is not None:
        wanted = next((node for node in graph if node.addressing == last), None)
        if wanted is None:
            known = ", ".join(sorted(node.addressing for node in graph))
            raise StageError(f"until {last}: no such stage; there are {known}")
        graph = graph.subgraph({wanted, *descendants(graph, wanted)})
    ended: dict[Any, State] = {}
    with Dvc() as dvc:
        for node in reversed(list(topological_sort(graph))):
            before = [ended[upstream] for upstream in graph.successors(node)]
            task = stage_task(node.addressing, dvc)

            def waiting(name: str = node.addressing) -> None:
                get_run_logger().info(
                    f"{name}: another run is at work on the same stage; waiting for its result"
                )

            with alone(f"{node.addressing}-{task.version}", waiting):
                clear_dead()  # the run that held the lock may have been killed
                ended[node] = task(wait_for=before, return_state=True)
            if not ended[node].is_completed():
                state.failed = node.addressing
                raise StageError(ended[node].message or f"{node.addressing}: ended {ended[node].name}")
            state.ended.append(node.addressing)
            state.save(folder)


def _one_name(flow_run: str) -> str:
    """The name of this run in all three tools; the flow run is renamed where its name is taken."""
    wanted = str(runtime.flow_run.name)
    name = free_name(wanted, flow_run)
    if name != wanted:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run, name=name)  # type: ignore[arg-type]
    return name


def _tags(settings: Settings, recipe: str | None, last: str | None) -> dict[str, str]:
    """The MLflow tags that tell this run from others: its recipe, and the labels that it learns from."""
    labels, tags = settings.collect.labels, {"recipe": recipe or ""}
    if last is None and settings.collect.labelers == "store" and labels.version:
        tags |= {"labels_project": labels.project, "labels_version": str(labels.version)}
    return tags


@contextmanager
def state_published(state: RunState, flow_run: str, parent: str, folder: Path) -> Iterator[None]:
    """Say on every page of the run how far it came: while it runs, and however it ends."""
    create_markdown_artifact(
        key=KEY,
        markdown=links(state, parent, folder),
        description="How far this run came, and where else to find it",
    )
    state.save(folder)
    try:
        yield
    except Exception as error:
        state.state, state.said = "failed", (str(error).splitlines() or [type(error).__name__])[0]
        raise
    except BaseException:
        state.state = "cancelled"
        raise
    finally:
        state.finished = time.time()
        publish_state(state, flow_run, parent, folder)


@contextmanager
def mlflow_run(name: str, flow_run: str, tags: dict[str, str]) -> Iterator[str]:
    """The run's MLflow run, parent of the stages' runs; yields its id."""
    from mlflow import MlflowClient

    client = MlflowClient()
    parent = start_parent_run(name, client, execution(flow_run))
    client.set_tag(parent, "prefect_flow_run", flow_run)
    client.set_tag(parent, "prefect_url", url_for("flow-run", flow_run) or "")
    client.set_tag(parent, "dvc_experiment", name)
    for tag, value in tags.items():
        client.set_tag(parent, tag, value)
    os.environ[PARENT_RUN] = parent
    status = "KILLED"
    try:
        yield parent
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        del os.environ[PARENT_RUN]
        end_processes(parent)  # what the run started and left running
        end_stage_runs(parent)
        client.set_terminated(parent, status)


def finish(state: RunState, flow_run: str, parent: str, folder: Path) -> None:
    """Save the worktree as a DVC experiment of the stages that ended in it."""
    state.state = "complete" if state.whole else "partial"
    message = f"{state.name}: {state}\n\nPrefect flow run: {flow_run}\nMLflow run: {parent}\n"
    with alone("experiments"):
        # The stages have committed their outputs; DVC does it again for each named one, in half a second.
        state.commit = save_experiment(state.name, state.ended[-1:], message)
