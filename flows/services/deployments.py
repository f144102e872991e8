"""The deployments of prefect.yaml on a server, with params.yaml in their forms, and one for each recipe."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.params import recipe_files, recipe_name
from flows.services.settings import Config, environment
from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json
from tasks.graph import content_hash


def deploy(config: Config, env: dict[str, str], record: Path) -> None:
    """Put the deployments of prefect.yaml and one for each recipe on the server, unless they are there.

    A deployment that is there as it should be is left alone: its schedule may have been switched on.

    Args:
        config: the services.
        env: the environment for Prefect's own command.
        record: the file that keeps what was deployed last.

    Raises:
        DataError: Prefect refused.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    wanted = [Path("prefect.yaml"), Path("params.yaml"), *sorted(Path("rlhf/settings").glob("*.py"))]
    wanted += [Path("flows/form.py"), Path("flows/pipeline.py"), Path("flows/loop.py")]
    recipes = recipe_files()
    present = " ".join(content_hash(path) for path in [*wanted, *recipes])
    with (
        temporary_settings(
            {PREFECT_API_URL: environment(config)["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: config.sign_in}
        ),
        get_client(sync_client=True) as client,
    ):
        with suppress(ObjectNotFound):
            if record.exists() and read_json(record).get("content") == present:
                client.read_deployment_by_name("rlhf/pipeline")
                return
        print("deploying the flows", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
            # $PWD in prefect.yaml is the folder that the runs start in; systemd does not set it
            env={**env, "RLHF_POOL": config.worker.pool, "PWD": str(Path.cwd())},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            printed = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise DataError(
                f"prefect deploy failed: {printed[-1] if printed else f'exit code {done.returncode}'}"
            )
        _deploy_settings(client, recipes)
    write_json(record, {"content": present})


def _deploy_settings(client: Any, recipes: list[Path]) -> None:
    """Fill the forms with params.yaml, and make a deployment like the pipeline's for each recipe."""
    from prefect.client.schemas.actions import DeploymentUpdate

    from flows.form import form_schema, form_values
    from rlhf.settings import load_settings

    pipeline = client.read_deployment_by_name("rlhf/pipeline")
    plain = pipeline.parameter_openapi_schema
    present = load_settings(Path("params.yaml"))
    for name in ("rlhf/pipeline", "validate-data/validate-data", "feedback/feedback"):
        deployment = client.read_deployment_by_name(name)
        schema = form_schema(deployment.parameter_openapi_schema, present)
        filled = DeploymentUpdate(
            parameters={"settings": form_values(present)}, parameter_openapi_schema=schema
        )
        client.update_deployment(deployment.id, filled)
    for recipe in recipes:
        name, settings = recipe_name(recipe), load_settings(recipe)
        client.create_deployment(
            flow_id=pipeline.flow_id,
            name=name,
            description=f"The recipe {recipe.parent}/",
            parameters={"settings": form_values(settings), "recipe": name},
            parameter_openapi_schema=form_schema(plain, settings),
            enforce_parameter_schema=True,
            entrypoint=pipeline.entrypoint,
            path=pipeline.path,
            pull_steps=pipeline.pull_steps,
            work_pool_name=pipeline.work_pool_name,
            concurrency_limit=None,
        )
