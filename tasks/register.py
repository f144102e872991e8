"""Register the PPO policy as @challenger, and as @champion through the gate: `python -m tasks.register`.

The same weights with the same evaluation are one version, however often this runs. The rules are in
rlhf/measures/gate.py; `runs/register.json`, the version's tags and its description say which of them held,
and why. The report of the run carries the decision, so it is gathered and written here: reports/report.html
and reports/figures. What only `evaluate` knows, samples and hashes of its inputs, is in
data/judgments/page.json.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import os
import tempfile
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rlhf.data.contracts import DEMONSTRATION, JUDGMENT, PROMPT
from rlhf.data.errors import DataError
from rlhf.data.files import read_json, written_beside
from rlhf.data.table import read_table
from rlhf.judges.judge import Row
from rlhf.measures.alpha_spending import RepeatedEvaluation, outcome, spent_alpha
from rlhf.measures.champion import against_champion
from rlhf.measures.display import rate_text
from rlhf.measures.evaluation import rates
from rlhf.measures.gate import decide
from rlhf.report.charts import calibration_charts, overoptimisation_charts, preference_chart
from rlhf.report.curves import curve_charts
from rlhf.report.drawing import write_charts
from rlhf.report.markdown import bullets, plain
from rlhf.report.page import render_report
from tasks.graph import content_hash, flat, stage_params
from tasks.judging import judge_policy
from tasks.runtime.errors import StageError
from tasks.runtime.locks import alone
from tasks.runtime.outcome import changed_parameters, in_short, total_cost, write_outcome
from tasks.runtime.past_evaluations import number_of_evaluation, record_evaluation
from tasks.runtime.places import git_commit
from tasks.runtime.registry import (
    CHALLENGER,
    CHAMPION,
    CONVERSATIONS,
    FILES,
    POLICY,
    find_champion,
    policy_folder,
    self_contained,
    served_code,
)
from tasks.runtime.stage import Stage, run
from tasks.runtime.tracking import parent_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

EVALUATION = Path("metrics/evaluation.json")
# What the rules found in the data; a run from before there were such files has none.
FINDINGS = (Path("metrics/findings.json"), Path("metrics/findings-comparisons.json"))
DRIFT = (Path("runs/validate.json"), Path("runs/validate-comparisons.json"))
JUDGMENTS = Path("data/judgments/judgments.parquet")
PREPARED = Path("data/prepared")
SERVED = Path("mlflow/served_policy.py")
FIGURES, PAGE = Path("reports/figures"), Path("reports/report.html")
REQUIREMENTS = ("mlflow", "torch", "transformers", "accelerate", "pandas", "jinja2", "pydantic")


def main(stage: Stage) -> dict[str, float]:
    """Register, move @challenger, ask the gate, maybe move @champion."""
    from mlflow import MlflowClient

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client, name = MlflowClient(), stage.settings.register_.model_name
    evaluation = read_json(EVALUATION)
    rows = list(read_table(JUDGMENTS, JUDGMENT).where("policy", "ppo"))
    check_evaluation(evaluation, rows)
    record_evaluation(stage, rows)
    # Of two runs at once, the one that compares last must see the champion that the other one made.
    with alone(f"registry-{name}", lambda: print(f"{name}: another run registers; waiting for it")):
        version = find_version(client, name) or new_version(stage, evaluation, rows)
        client.set_registered_model_alias(name, CHALLENGER, version.version)
        print(f"{name} version {version.version} is @{CHALLENGER}")
        decision = decide_and_promote(stage, evaluation, rows, version, client)
    stage.record["gate"] = decision
    stage.record["total_cost"] = write_outcome(decision["promoted"])
    write_report(stage, decision)
    return {"promoted": float(decision["promoted"]), "version": float(version.version)}


def check_evaluation(evaluation: Mapping[str, Any], rows: list[Row]) -> None:
    """The evaluation that the gate reads is of these weights and of these judgments.

    Raises:
        StageError: it is not.
    """
    if evaluation["weights"]["ppo"] != content_hash(POLICY):
        raise StageError(f"{EVALUATION} is not of the weights in {POLICY}; `dvc repro evaluate` judges them")
    if evaluation["outcome"] != outcome(rows):
        raise StageError(
            f"{EVALUATION} is not of the judgments in {JUDGMENTS}; `dvc repro evaluate` mends it"
        )


def decide_and_promote(
    stage: Stage, evaluation: Mapping[str, Any], rows: list[Row], version: ModelVersion, client: MlflowClient
) -> dict[str, Any]:
    """Ask the gate, write its answer on the version, and move @champion where it says so.

    Returns:
        What `rlhf.measures.gate.decide` returns, with the version, the hash of its weights, the number of
        this evaluation among those of the same prompts, and the comparison with the champion.
    """
    name, settings = version.name, stage.settings.register_
    corrected = corrected_for_repeats(stage, rows)
    while True:
        champion = met = None
        if settings.beat_champion:
            champion = find_champion(client, name)
            met = meet_champion(stage, version, champion, rows, corrected.number)
        decision = decide(settings, evaluation, corrected, met)
        for rule in decision["rules"]:
            said = f"{'held' if rule['held'] else 'failed'}: {rule['detail']}"
            print(f"gate: {rule['rule']}: {said}")
            client.set_model_version_tag(name, version.version, f"gate.{rule['rule']}", said)
        for line in decision["warnings"]:
            print(f"gate: warning: {line}")
        promoted = decision["promoted"]
        client.set_model_version_tag(name, version.version, "promoted", str(promoted).lower())
        client.update_model_version(name, version.version, description=describe(evaluation, decision))
        now = find_champion(client, name) if settings.beat_champion else None
        if (now and now.version) == (champion and champion.version):
            break
        # The lock holds on this machine only, and another that shares the registry has promoted meanwhile.
    if promoted:
        client.set_registered_model_alias(name, CHAMPION, version.version)
    print(f"{name} version {version.version} is {'' if promoted else 'not '}promoted to @{CHAMPION}")
    return decision | {
        "version": str(version.version),
        "weights": version.tags["weights"],
        "look": corrected.number,
        "champion": met,
    }


def corrected_for_repeats(stage: Stage, rows: list[Row]) -> RepeatedEvaluation:
    """Which evaluation of these prompts this is, and PPO's lower ends at the level that is left for it."""
    number = number_of_evaluation(stage, rows)
    confidence = 1 - 2 * spent_alpha(number, stage.settings.evaluate.confidence)
    ppo = rates({"ppo": rows}, confidence)["policies"]["ppo"]
    return RepeatedEvaluation(number, confidence, ppo["low"], ppo["length_controlled"]["low"])


def find_version(client: MlflowClient, name: str) -> ModelVersion | None:
    """The newest version with the present weights and evaluation, if its files are unharmed."""
    wanted = (content_hash(POLICY), content_hash(EVALUATION))
    same = [
        version
        for version in client.search_model_versions(f"name = '{name}'")
        if (version.tags.get("weights"), version.tags.get("evaluation")) == wanted
    ]
    for version in sorted(same, key=lambda version: -int(version.version)):
        if policy_folder(version):
            return version
    return None


def new_version(stage: Stage, evaluation: Mapping[str, Any], rows: list[Row]) -> ModelVersion:
    """Log the policy and register it; the version appears at once with all its tags, or not at all.

    The tag `prompts` says that it was judged on conversations, so that whoever asks it knows to ask in turns.
    """
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
        inputs=None,  # with a schema MLflow would drop unknown fields; the policy checks its input itself
        outputs=Schema([ColSpec("string")]),
        params=ParamSchema(
            [
                ParamSpec("temperature", "double", defaults["temperature"]),
                ParamSpec("max_new_tokens", "long", defaults["max_new_tokens"]),
                ParamSpec("seed", "long", defaults["seed"]),
            ]
        ),
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),  # MLflow asks for an example to infer the signature that it has
    ):
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        policy = self_contained(POLICY, Path(folder))
        files = content_hash(policy)
        logged = mlflow.pyfunc.log_model(
            name="policy",
            python_model=str(SERVED),
            code_paths=[str(served_code(Path(folder)))],
            artifacts={"policy": str(policy)},
            signature=signature,
            model_config=defaults,
            pip_requirements=[f"{package}=={installed(package).split('+')[0]}" for package in REQUIREMENTS],
        )
    tags = {
        "stage_key": stage.key,
        "weights": content_hash(POLICY),
        FILES: files,
        "evaluation": content_hash(EVALUATION),
        "rate": str(ppo["rate"]),
        "low": str(ppo["low"]),
        "high": str(ppo["high"]),
        "n": str(evaluation["n"]),
        "judge": evaluation["judge"]["name"],
        "judge_kind": evaluation["judge"]["kind"],
    }
    if any(row["messages"] for row in rows):
        tags["prompts"] = CONVERSATIONS
    return mlflow.register_model(logged.model_uri, stage.settings.register_.model_name, tags=tags)


def meet_champion(
    stage: Stage, version: ModelVersion, champion: ModelVersion | None, rows: list[Row], number: int
) -> dict[str, Any]:
    """The new policy against the champion: same prompts, settings and judge.

    Args:
        stage: the stage.
        version: of the new policy.
        champion: the version that bears @champion; None where none does.
        rows: judgments of the new policy's outputs.
        number: which evaluation of these prompts this is.

    Returns:
        `version` of the champion, and either the `comparison` with it or whether the rule is `held` and what
        is `said`.
    """
    if champion is None:
        return {"version": "", "held": True, "said": "there is no champion yet"}
    met: dict[str, Any] = {"version": str(champion.version)}
    named = f"the champion, version {champion.version},"
    if champion.version == version.version or champion.tags.get("weights") == version.tags.get("weights"):
        return met | {"held": True, "said": f"{named} has the same weights"}
    folder = policy_folder(champion)
    if folder is None:
        return met | {
            "held": False,
            "said": f"the files of {named} are missing or changed, so nothing can be compared; restore "
            f"them, or delete the alias '{CHAMPION}' of {version.name}",
        }
    try:
        judged = judge_policy(stage, folder, rows)
    except DataError as error:
        return met | {"held": False, "said": f"{named} cannot be judged on these prompts: {error}"}
    settings = stage.settings
    comparison = against_champion(
        rows,
        judged,
        {row["prompt"]: row["topic"] for row in read_table(PREPARED / "prompts.parquet", PROMPT)},
        writers(rows),
        confidence=settings.evaluate.confidence,
        evaluation_number=number,
        margin=settings.register_.max_champion_loss,
        saving=settings.register_.min_saving,
        banned=settings.evaluate.banned_words,
    )
    if comparison is None:
        return met | {"held": False, "said": f"{named} got no judgment on these prompts"}
    return met | {"comparison": comparison}


def writers(rows: list[Row]) -> dict[str, str | None]:
    """Who wrote the reference of each prompt."""
    demonstrations = read_table(PREPARED / "demonstrations.parquet", DEMONSTRATION)
    wrote = {(row["prompt"], row["completion"]): row["writer_id"] for row in demonstrations}
    return {row["prompt"]: wrote.get((row["prompt"], row["reference"])) for row in rows}


def describe(evaluation: Mapping[str, Any], decision: Mapping[str, Any]) -> str:
    """A version's description, Markdown: every refusal and every warning, then the rules that held."""
    ppo, judge = evaluation["policies"]["ppo"], evaluation["judge"]
    paragraphs = [
        f"PPO policy, preferred to the reference {rate_text(ppo)}, n = {evaluation['n']}, "
        f"judge {plain(judge['name'])} ({plain(judge['kind'])}).",
        f"{'Promoted' if decision['promoted'] else 'Not promoted'} to @{CHAMPION}:",
    ]
    order = sorted(decision["rules"], key=lambda rule: rule["held"])
    lines = [f"{rule['rule']} {'held' if rule['held'] else 'failed'}: {rule['detail']}" for rule in order]
    lines += [f"warning: {line}" for line in decision["warnings"]]
    return "\n\n".join(paragraphs) + "\n" + bullets(lines)


def write_report(stage: Stage, gate: Mapping[str, Any]) -> None:
    """Draw the charts, write the report, and log both as artifacts of the stage's run.

    The run's name, date and cost, the registry's version and the champion of the day differ between two runs
    of the same work; everything else on the page is the same bytes.

    Args:
        stage: the stage that writes it.
        gate: what stands in `runs/register.json` as `gate`.
    """
    evaluation, reward = read_json("metrics/evaluation.json"), read_json("metrics/reward.json")
    confidence = evaluation["confidence"]
    charts = {"preferred-to-reference": preference_chart(evaluation, confidence)}
    charts |= overoptimisation_charts(evaluation["overoptimisation"], confidence)
    charts |= calibration_charts(reward.get("quality"))
    charts |= curve_charts("plots")
    page = render_report(
        evaluation,
        charts,
        read_json("data/judgments/page.json"),
        gate=gate,
        about=_about(stage, gate),
        params=flat(stage_params(stage.name)),
        reward=reward,
        rankings=read_json("metrics/collect.json"),
        data=read_json("metrics/prepare.json"),
        base=read_json("metrics/base.json"),
        findings=[finding for path in FINDINGS if path.exists() for finding in read_json(path)]
        + [finding for path in DRIFT if path.exists() for finding in read_json(path).get("drift", [])],
    )
    with written_beside(FIGURES) as beside:
        write_charts(beside, charts)
    with written_beside(PAGE) as beside:
        beside.write_text(page)
    for path in (FIGURES, PAGE):
        stage.log_artifact(path)


def _about(stage: Stage, gate: Mapping[str, Any]) -> dict[str, Any]:
    """The run: see `rlhf.report.page.render_report`. A stage that was run by hand has no name."""
    cost = total_cost()
    return {
        "name": _run_name(parent_run()),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": git_commit(),
        "changed": in_short(changed_parameters(), width=300),
        "seconds": cost["seconds"],
        "memory_mb": cost["memory_mb"],
        "champion": champion_run(stage, gate),
    }


def champion_run(stage: Stage, gate: Mapping[str, Any]) -> dict[str, str] | None:
    """The version that the gate compared with, the run that it is from, and where that run's report is.

    The link is one to the pages of the runs, which `make up` serves; without them there is none.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    version = (gate.get("champion") or {}).get("version")
    if not version or version == gate["version"]:
        return None
    client, name = MlflowClient(), ""
    with suppress(MlflowException):  # a version outlives its run
        made = client.get_run(client.get_model_version(stage.settings.register_.model_name, version).run_id)
        name = _run_name(made.data.tags.get("mlflow.parentRunId"))
    pages = os.environ.get("RLHF_PAGES")
    link = f"{pages}/{quote(name)}/{PAGE}" if pages and name else ""
    return {"version": str(version), "run": name, "link": link}


def _run_name(run: str | None) -> str:
    """The name of a run of the whole pipeline in Prefect, DVC and MLflow; empty where there is none."""
    from mlflow import MlflowClient

    return MlflowClient().get_run(run).info.run_name or "" if run else ""


if __name__ == "__main__":
    run("register", main)
