"""Where to find a run and how far it came: its artifact `links` in Prefect and its tags in MLflow."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import httpx
import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.run_state import RunState, pages

KEY = "links"


def publish_state(state: RunState, flow_run: str, parent: str, tree: Path) -> None:
    """Write the run's state wherever the run is shown: its worktree, MLflow, and its artifact in Prefect.

    A server that is away does not hold this up: a run that is cancelled has seconds to end in.

    Args:
        flow_run, parent: the run's id in Prefect and in MLflow.
        tree: its worktree.
    """
    state.save(tree)
    with suppress(MlflowException):
        client = MlflowClient()
        tags = {"state": state.state, "stages": " ".join(state.ended), "mlflow.note.content": str(state)}
        for tag, value in (tags | ({"dvc_commit": state.commit} if state.commit else {})).items():
            client.set_tag(parent, tag, value)
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        suppress(httpx.HTTPError, MlflowException),  # the links ask MLflow for its experiment
        get_client(sync_client=True) as prefect,
    ):
        mine = ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(flow_run)]), key=ArtifactFilterKey(any_=[KEY])
        )
        for card in prefect.read_artifacts(artifact_filter=mine):
            prefect.update_artifact(card.id, ArtifactUpdate(data=links(state, parent, tree)))


def links(state: RunState, parent: str, tree: Path) -> str:
    """How far the run came, where it is in MLflow and DVC, and the pages that it wrote, as Markdown."""
    store = re.sub("(?<=://)[^/@]*@", "", mlflow.get_tracking_uri())  # a name and a password are for no page
    run = f"`{state.name}`, id `{parent}`, in the experiment `rlhf-pipeline`"
    if store.startswith("http"):
        experiment = mlflow.get_run(parent).info.experiment_id
        run = f"[{state.name}]({store}/#/experiments/{experiment}/runs/{parent})"
    lines = {"state": str(state), "MLflow": run}
    if state.commit:
        lines["DVC experiment"] = f"`dvc exp apply {state.name}`, commit `{state.commit[:12]}`"
        if not state.whole:
            lines["DVC experiment"] += "; DVC then names the outputs that are missing and ends with an error"
    for what, paths in pages(tree).items():
        lines[what] = ", ".join(_page(state.name, path, text) for text, path in paths.items()) or "none"
    return "\n".join(f"- {what}: {where}" for what, where in lines.items())


def _page(name: str, path: Path, text: str) -> str:
    """A page in the worktree of a run as Markdown: a link where `make up` serves it, else where it lies."""
    served = os.environ.get("RLHF_PAGES")
    return f"[{text}]({served}/{name}/{path})" if served else f"`.runs/{name}/{path}`"
