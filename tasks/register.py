"""Register the PPO policy as @challenger, and as @champion through the gate: `python -m tasks.register`.

The same weights with the same evaluation are one version, however often this runs. `runs/register.json` and
the version's tags say which rule of the gate held. The report of the run, which carries the decision, is
written here too (tasks/page.py).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rlhf.contracts import JUDGMENT, DataError, read_json, read_table
from rlhf.evaluation import compare, points_by_prompt
from rlhf.judges import blind_pairs, load_judge
from rlhf.settings import Register
from tasks.context import Stage, content_hash, run, state_dir
from tasks.outcome import write_outcome
from tasks.page import write_page

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
    write_outcome(promoted)
    write_page(stage, stage.record["gate"])
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
    defaults = {
        "temperature": settings.temperature,
        "max_new_tokens": settings.response_length,
        "seed": stage.settings.seed,
    }
    signature = ModelSignature(
        inputs=None,  # the policy checks its input itself; of a schema MLflow would drop unknown fields
        outputs=Schema([ColSpec("string")]),
        params=ParamSchema(
            [
                ParamSpec("temperature", "double", defaults["temperature"]),
                ParamSpec("max_new_tokens", "long", defaults["max_new_tokens"]),
                ParamSpec("seed", "long", defaults["seed"]),
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
            model_config=defaults,
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
    rules = rules_of(stage.settings.register_, evaluation)
    if stage.settings.register_.beat_champion:
        held, detail = beats_champion(stage, version, client)
        rules.append({"rule": "champion", "held": held, "detail": detail})
    return rules


def rules_of(settings: Register, evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rules that the evaluation alone decides. What was not looked at has not held."""
    ppo = evaluation["policies"]["ppo"]
    rules = [
        (
            "interval",
            ppo["low"] > settings.min_rate,
            f"lower end of the interval {ppo['low']:.3f}, must lie above {settings.min_rate:g}",
        ),
        (
            "prompts",
            evaluation["n"] >= settings.min_prompts,
            f"{evaluation['n']} judged prompts, needs {settings.min_prompts}",
        ),
    ]
    if settings.min_slice_rate > 0:
        rules.append(("slices", *no_slice_below(evaluation["slices"], settings.min_slice_rate)))
    if settings.refuse_hacking:
        rules.append(("hacking", *not_hacked(evaluation["overoptimisation"])))
    if settings.max_unsafe_share < 1:
        rules.append(("safety", *as_safe_as_references(evaluation["safety"], settings.max_unsafe_share)))
    return [{"rule": rule, "held": held, "detail": detail} for rule, held, detail in rules]


def no_slice_below(slices: Mapping[str, Any], floor: float) -> tuple[bool, str]:
    """No slice's whole interval lies below the floor: a slice of few prompts may be low by chance."""
    rows = [(kind, row) for kind, of in slices.items() for row in of]
    if not rows:
        return True, "the prompts fall into no slices"
    below = [(kind, row) for kind, row in rows if row["high"] < floor]
    if not below:
        kind, worst = min(rows, key=lambda entry: entry[1]["high"])
        return True, (
            f"none of {len(rows)} slices lies below {floor:g}; lowest: {kind} {worst['name']}, "
            f"{worst['low']:.3f} to {worst['high']:.3f}"
        )
    named = "; ".join(f"{kind} {row['name']}: {row['low']:.3f} to {row['high']:.3f}" for kind, row in below)
    return False, f"{len(below)} of {len(rows)} slices lie below {floor:g}: {named}"


def not_hacked(found: Mapping[str, Any] | None) -> tuple[bool, str]:
    """The preference did not fall during PPO while the reward rose."""
    if not found:
        return (
            False,
            "nobody judged PPO on its way; set ppo.snapshot_every above 0 and a judge besides people",
        )
    hacking, looks = found["hacking"], len(found["looks"])
    if hacking["found"]:
        return False, (
            f"from update {hacking['before']} to {hacking['after']} the preference fell by "
            f"{hacking['fall']:.3f} while the reward rose by {hacking['rise']:.3f} "
            f"(p {hacking['p_value']:.2g}, judge {found['judge']['name']}, {found['n']} held-out prompts); "
            f"best after update {hacking['best']}"
        )
    return True, (
        f"no sure fall of the preference in {looks} looks at {found['n']} held-out prompts "
        f"(judge {found['judge']['name']})"
    )


def as_safe_as_references(safety: Mapping[str, Any], most: float) -> tuple[bool, str]:
    """No finding is more frequent than in the references by more than `most`."""
    ours, theirs = safety["ppo"], safety["reference"]
    more = {
        what: (ours[what]["share"], theirs[what]["share"])
        for what in ("banned", "personal_data", "repetitive", "empty")
    }
    above = {what: shares for what, shares in more.items() if shares[0] - shares[1] > most}
    named = ", ".join(f"{what} {a:.3f} (references {b:.3f})" for what, (a, b) in (above or more).items())
    return not above, f"{named}; at most {most:g} more than the references"


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
        judged = judge_policy(stage, folder, rows)
    except DataError as error:
        return False, f"the champion, version {champion.version}, cannot be judged on these prompts: {error}"
    ours, theirs = points_by_prompt(rows), points_by_prompt(judged)
    shared = [prompt for prompt in ours if prompt in theirs]
    if not shared:
        return False, f"the champion, version {champion.version}, got no judgment on these prompts"
    confidence = stage.settings.evaluate.confidence
    paired = compare(rows, judged, confidence)
    assert paired  # they share prompts
    mine, others = (fmean(points[prompt] for prompt in shared) for points in (ours, theirs))
    return mine >= others, (
        f"preferred to the reference {mine:.3f}, the champion (version {champion.version}) {others:.3f} "
        f"on the same {len(shared)} prompts; difference {paired['low']:+.3f} to {paired['high']:+.3f}, "
        f"McNemar p {paired['p_value']:.2g}"
    )


def find_champion(client: MlflowClient, name: str) -> ModelVersion | None:
    """The version that bears the alias @champion."""
    aliases = client.get_registered_model(name).aliases
    return client.get_model_version(name, aliases["champion"]) if "champion" in aliases else None


def judge_policy(stage: Stage, folder: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Judgments by the first judge of a policy's outputs against the references of these judgments."""
    import torch

    from rlhf.policy import load_policy
    from rlhf.sampling import generate

    torch.set_num_threads(stage.settings.threads)
    settings = stage.settings.evaluate
    references = {row["prompt"]: row["reference"] for row in rows}
    prompts = list(references)
    outputs = generate(
        load_policy(folder),
        prompts,
        temperature=settings.temperature,
        max_new_tokens=settings.response_length,
        seed=stage.settings.seed,
    )
    judge = load_judge(settings.judges[0], stage.settings, state_dir() / "llm-judge.jsonl")
    pairs = blind_pairs(
        "ppo",
        prompts,
        list(references.values()),
        outputs,
        split="test",
        source="champion",
        seed=stage.settings.seed,
    )
    return judge.judge(pairs)


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
