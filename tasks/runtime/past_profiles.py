"""The profile of the last version of a data set: each run of `validate` leaves its own in MLflow.

A version is another one if its profile differs: to check the same data again finds the same predecessor. It
is of the same data set if a table has rows of one source in both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.runtime.stage import Stage

_FILE, _HASH = "profile.json", "data.profile"  # MLflow's artifact, and tag
_LOOKED_AT = 20  # runs
Profiles = Mapping[str, Mapping[str, Any]]  # table -> its profile


def record_profiles(stage: Stage, profiles: Profiles) -> None:
    """Leave the profiles of this version on the stage's MLflow run."""
    import mlflow

    mlflow.log_dict(dict(profiles), _FILE)
    mlflow.set_tag(_HASH, _digest(profiles))


def last_profiles(stage: Stage, profiles: Profiles) -> tuple[str, Profiles] | None:
    """The name of the last finished run of this stage with another version of the data set, and its profiles.

    None where the tracking store has none, or lost what the run left there: then nothing is compared.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    runs = mlflow.search_runs(
        experiment_ids=[mlflow.get_run(stage.run_id).info.experiment_id],
        filter_string=f"tags.stage = '{stage.name}' and tags.`{_HASH}` != '{_digest(profiles)}' "
        "and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=_LOOKED_AT,
        output_format="list",
    )
    for run in runs:
        try:
            before = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/{_FILE}")
        except (MlflowException, OSError, ValueError):
            continue
        if any(_sources(profiles, table) & _sources(before, table) for table in profiles):
            return run.info.run_name, before
    return None


def _digest(profiles: Profiles) -> str:
    return hashlib.sha256(json.dumps(profiles, sort_keys=True).encode()).hexdigest()[:16]


def _sources(profiles: Profiles, table: str) -> set[str]:
    return set(profiles.get(table, {}).get("values", {}).get("source", ()))
