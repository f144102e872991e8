"""The profile of the last version of a data set, as MLflow keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pytest

from tasks.runtime.stage import Stage


def checked(profiles: dict[str, Any], name: str = "validate", ended: str = "FINISHED") -> Any:
    """Check a version in a run of its own; returns what it is compared with."""
    with mlflow.start_run(run_name=f"{name} {profiles['prompts']['rows']}", tags={"stage": name}) as run:
        stage = Stage(name, None, "key", run.info.run_id)  # type: ignore[arg-type]
        before = stage.compare_profiles(profiles)
    mlflow.MlflowClient().set_terminated(run.info.run_id, ended)
    return before


def version(rows: int, source: str = "a") -> dict[str, Any]:
    return {"prompts": {"rows": rows, "values": {"source": {source: rows}}, "prompts": [2**64 - 1]}}


def test_the_last_finished_run_with_another_version_of_the_same_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("data", (tmp_path / "files").as_uri()))
        assert checked(version(1)) is None
        assert checked(version(1)) is None  # the same data once more
        assert checked(version(2)) == ("validate 1", version(1))
        assert checked(version(2)) == ("validate 1", version(1))  # and it is compared with the same
        assert checked(version(3), ended="FAILED") == ("validate 2", version(2))
        assert checked(version(4)) == ("validate 2", version(2))  # what was refused is no version
        assert checked(version(9, source="b")) is None  # another data set
        assert checked(version(5), name="validate-comparisons") is None
        assert checked(version(6)) == ("validate 4", version(4))
        for path in (tmp_path / "files").rglob("profile.json"):
            path.unlink()
        assert checked(version(7)) is None  # lost: nothing is compared
    finally:
        mlflow.set_tracking_uri(before)
