"""Secrets in the environment of a run are in nothing that it leaves behind.

A whole run of the flow takes some seconds; nothing smaller writes parameters, tags, artifacts and commits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flow_results import git

PLANTED = "planted-secret-of-a-run"
NAMES = ("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "RLHF_PASSWORD", "RLHF_SIGN_IN", "HF_TOKEN")


def test_no_secret_of_the_environment_is_in_what_a_run_leaves(
    run: Any, services: Path, small_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client

    for name in NAMES:
        monkeypatch.setenv(name, PLANTED)
    state, task_runs, flow_run = run("run-of-secrets")
    assert state.is_completed()
    with get_client(sync_client=True) as client:
        shown = [flow_run, *task_runs.values(), *client.read_artifacts()]
    assert not [one for one in shown if PLANTED in one.model_dump_json()]
    files = [path for folder in (services, small_repository) for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"mlflow.db", "params.yaml", "dvc.lock"} <= names
    assert [str(path) for path in files if PLANTED.encode() in path.read_bytes()] == []
    history = git("log", "--all", "--patch")
    assert "refs/exps" in git("for-each-ref")
    assert PLANTED not in history
