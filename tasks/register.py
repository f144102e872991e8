"""Register the PPO policy as @challenger, and as @champion through the gate: `python -m tasks.register`.

The same weights with the same evaluation are one version, however often this runs. `runs/register.json` and
the version's tags say which rule of the gate held.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.contracts import JUDGMENT, DataError, read_json, read_table
from rlhf.judges import load_judge
from rlhf.statistics import preference_rate
from tasks.context import Stage, content_hash, run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

POLICY = Path("models/ppo")
EVALUATION = Path("metrics/evaluation.json")
SERVED = Path(__file__).with_name("served_policy.py")
REQUIREMENTS = ("mlflow", "torch", "transformers", "pandas")


def main(stage: Stage) -> dict[str, float]:
    """Register, move @challenger, ask the gate, maybe move @champion."""
    from mlflow import MlflowClient

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client, name = MlflowClient(), stage.settings.register_.model_name
    evaluation = read_json(EVALUATION)
    version = find_version(client, name) or new_version(stage, evaluation)
    client.set_registered_model_alias(name, "challenger", version.version)
    print(f"{name} version {version.version} is @challenger")

    rules = gate(stage, evaluation, version, client)
    promoted = all(rule["held"] for rule in rules)
    for rule in rules:
        print(f"gate: {rule['rule']}: {'held' if rule['held'] else 'failed'}: {rule['detail']}")
        tag = f"{'held' if rule['held'] else 'failed'}: {rule['detail']}"
        client.set_model_version_tag(name, version.version, f"gate.{rule['rule']}", tag)
    client.set_model_version_tag(name, version.version, "promoted", str(promoted).lower())
    client.update_model_version(name, version.version, description=describe(evaluation, rules, promoted))
    if promoted:
        client.set_registered_model_alias(name, "champion", version.version)
    print(f"{name} version {version.version} is {'' if promoted else 'not '}promoted to @champion")
    stage.record["gate"] = {"promoted": promoted, "version": str(version.version), "rules": rules}
    return {"promoted": float(promoted), "version": float(version.version)}


def find_version(client: MlflowClient, name: str) -> ModelVersion | None:
    """The newest version with the present weights and evaluation, if its files are unharmed."""
    wanted = (content_hash(POLICY), content_hash(EVALUATION))
    found = [
        version
        for version in client.search_model_versions(f"name = '{name}'")
        if (version.tags.get("weights"), version.tags.get("evaluation")) == wanted
    ]
    for version in sorted(found, key=lambda version: -int(version.version)):
        if policy_folder(version):
            return version
    return None


def new_version(stage: Stage, evaluation: Mapping[str, Any]) -> ModelVersion:
    """Log the policy and register it; the version appears at once with all its tags, or not at all."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    settings, ppo = stage.settings.evaluate, evaluation["policies"]["ppo"]
    signature = ModelSignature(
        inputs=Schema([ColSpec("string")]),
        outputs=Schema([ColSpec("string")]),
        params=ParamSchema(
            [
                ParamSpec("temperature", "double", settings.temperature),
                ParamSpec("max_new_tokens", "long", settings.response_length),
                ParamSpec("seed", "long", stage.settings.seed),
            ]
        ),
    )
    with warnings.catch_warnings():  # the signature is given, so no example is needed to infer it
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        logged = mlflow.pyfunc.log_model(
            name="policy",
            python_model=str(SERVED),
            artifacts={"policy": str(POLICY)},
            signature=signature,
            pip_requirements=[f"{package}=={installed(package).split('+')[0]}" for package in REQUIREMENTS],
        )
    tags = {
        "stage_key": stage.key,
        "weights": content_hash(POLICY),
        "evaluation": content_hash(EVALUATION),
        "rate": f"{ppo['rate']:.4f}",
        "low": f"{ppo['low']:.4f}",
        "high": f"{ppo['high']:.4f}",
        "n": str(evaluation["n"]),
        "judge": evaluation["judge"]["name"],
        "judge_kind": evaluation["judge"]["kind"],
    }
    return mlflow.register_model(logged.model_uri, stage.settings.register_.model_name, tags=tags)


def policy_folder(version: ModelVersion) -> Path | None:
    """The weights of a registered version as a local folder; None where files are missing or changed."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        root = Path(mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}"))
        folder = root / "artifacts" / POLICY.name
        whole = folder.is_dir() and content_hash(folder) == version.tags.get("weights")
    except (MlflowException, OSError):
        return None
    return folder if whole else None


def gate(
    stage: Stage, evaluation: Mapping[str, Any], version: ModelVersion, client: MlflowClient
) -> list[dict[str, Any]]:
    """The rules of the gate to @champion: `rule`, whether it `held`, and a `detail` in words."""
    settings, ppo = stage.settings.register_, evaluation["policies"]["ppo"]
    rules = [
        {
            "rule": "interval",
            "held": ppo["low"] > settings.min_rate,
            "detail": f"lower end of the interval {ppo['low']:.3f}, must lie above {settings.min_rate:g}",
        },
        {
            "rule": "prompts",
            "held": evaluation["n"] >= settings.min_prompts,
            "detail": f"{evaluation['n']} judged prompts, needs {settings.min_prompts}",
        },
    ]
    if settings.beat_champion:
        held, detail = beats_champion(stage, version, client)
        rules.append({"rule": "champion", "held": held, "detail": detail})
    return rules


def beats_champion(stage: Stage, version: ModelVersion, client: MlflowClient) -> tuple[bool, str]:
    """Whether the new policy is at least as good as the champion: same prompts, settings and judge."""
    name = version.name
    champion = find_champion(client, name)
    if champion is None:
        return True, "there is no champion yet"
    if champion.version == version.version or champion.tags.get("weights") == version.tags.get("weights"):
        return True, f"the champion, version {champion.version}, has the same weights"
    folder = policy_folder(champion)
    if folder is None:
        return False, (
            f"the files of the champion, version {champion.version}, are missing or changed, so nothing can "
            f"be compared; restore them, or delete the alias 'champion' of {name}"
        )
    rows = [row for row in read_table("data/judgments/judgments.parquet", JUDGMENT) if row["policy"] == "ppo"]
    try:
        theirs = judge_policy(stage, folder, rows)
    except DataError as error:
        return False, f"the champion, version {champion.version}, cannot answer these prompts: {error}"
    ours = preference_rate([row["preferred"] for row in rows]).rate
    return ours >= theirs, (
        f"preferred to the reference {ours:.3f}, the champion (version {champion.version}) {theirs:.3f} "
        f"on the same {len(rows)} prompts"
    )


def find_champion(client: MlflowClient, name: str) -> ModelVersion | None:
    """The version that bears the alias @champion."""
    aliases = client.get_registered_model(name).aliases
    return client.get_model_version(name, aliases["champion"]) if "champion" in aliases else None


def judge_policy(stage: Stage, folder: Path, rows: list[dict[str, Any]]) -> float:
    """Rate at which a policy's outputs are preferred to the references of these judgments."""
    import torch

    from rlhf.policy import generate, load_policy

    torch.set_num_threads(stage.settings.threads)
    settings = stage.settings.evaluate
    prompts = [row["prompt"] for row in rows]
    outputs = generate(
        load_policy(folder),
        prompts,
        temperature=settings.temperature,
        max_new_tokens=settings.response_length,
        seed=stage.settings.seed,
    )
    judge = load_judge("models/judge", "data/gold/facts.parquet")
    return preference_rate(judge.prefer(prompts, [row["reference"] for row in rows], outputs)).rate


def describe(evaluation: Mapping[str, Any], rules: list[dict[str, Any]], promoted: bool) -> str:
    """A version's description, Markdown."""
    ppo, judge = evaluation["policies"]["ppo"], evaluation["judge"]
    lines = [
        f"PPO policy, preferred to the reference {ppo['rate']:.3f} ({ppo['low']:.3f} to {ppo['high']:.3f}), "
        f"n = {evaluation['n']}, judge {judge['name']} ({judge['kind']}).",
        f"{'Promoted' if promoted else 'Not promoted'} to @champion:",
        *(f"- {rule['rule']} {'held' if rule['held'] else 'failed'}: {rule['detail']}" for rule in rules),
    ]
    return "\n\n".join(lines[:2]) + "\n" + "\n".join(lines[2:])


if __name__ == "__main__":
    run("register", main)
