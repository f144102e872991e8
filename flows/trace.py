"""Where a registered model comes from: its run, experiment, commit, parameters, data and labelers.

    python -m flows.trace models:/rlhf-policy@champion
    python -m flows.trace models:/rlhf-policy/3 --json
    python -m flows.trace models:/rlhf-policy@champion --reproduce

--reproduce checks the experiment out into a worktree with an empty cache and no checkpoints, runs every stage
that its output depends on again, and compares the hashes of all outputs; exit code 1 where one differs.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from flows.services.processes import running_environment
from flows.workspace import RUNS, link_data, open_worktree
from rlhf.data.contracts import COMPARISON
from rlhf.data.errors import DataError
from rlhf.data.table import read_table
from rlhf.settings import check_settings, yaml_value
from tasks.graph import flat
from tasks.runtime.errors import StageError, one_line_errors
from tasks.runtime.tracking import connect

COMPARISONS = "data/comparisons"
VARYING = ("runs/", "reports/")  # MLflow run ids; pages carry times and names of runs


def trace(uri: str) -> dict[str, Any]:
    """The ancestry of a registered model.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Returns:
        `model`, `runs`, `experiment`, `params`, `data` (path -> DVC's hash), `labelers`. A part that was not
        recorded is missing: a model that `dvc repro` made has no experiment.

    Raises:
        DataError: no such model, or what it came from is gone.
    """
    from mlflow import MlflowClient

    client, version = MlflowClient(), find_version(uri)
    stage = client.get_run(version.run_id)
    origin: dict[str, Any] = {
        "model": {
            "name": version.name,
            "version": str(version.version),
            "aliases": sorted(version.aliases),
            "tags": dict(sorted(version.tags.items())),
        },
        "runs": {"register": stage.info.run_id},
    }
    parent_id = stage.data.tags.get("mlflow.parentRunId")
    if not parent_id:
        return origin | {"experiment": {"git commit": stage.data.tags.get("git_commit", "")}}
    parent = client.get_run(parent_id)
    tags = parent.data.tags
    origin["runs"] |= {"name": parent.info.run_name, "pipeline": parent_id}
    if "prefect_flow_run" in tags:
        origin["runs"]["prefect flow run"] = tags["prefect_flow_run"]
    commit = tags.get("dvc_commit")
    origin["experiment"] = {
        "name": tags.get("dvc_experiment", ""),
        "commit": commit or "",
        "git commit": stage.data.tags.get("git_commit", ""),
    }
    if not commit:
        return origin
    lock, params = at(commit, "dvc.lock"), at(commit, "params.yaml")
    origin["params"] = flat(params)  # as the run had them: parameters that are called otherwise now, too
    outs = outputs(lock)
    origin["data"] = {path: md5 for path, md5 in outs.items() if path.startswith("data/")}
    origin["models"] = {path: md5 for path, md5 in outs.items() if path.startswith("models/")}
    origin["runs"]["stages"] = stage_runs(commit, lock)
    origin["labelers"] = labelers(commit) if COMPARISONS in outs else {}
    return origin


def find_version(uri: str) -> Any:
    """The registry's version that a URI names."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    named = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if not named:
        raise DataError(f"{uri}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = named.groups()
    try:
        if alias:
            return MlflowClient().get_model_version_by_alias(name, alias)
        return MlflowClient().get_model_version(name, number)
    except MlflowException as error:
        raise DataError(f"{uri}: {str(error).splitlines()[0]}") from None


def at(commit: str, path: str) -> Any:
    """A YAML file as a commit has it.

    Raises:
        DataError: the commit is gone.
    """
    done = subprocess.run(["git", "show", f"{commit}:{path}"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(
            f"the experiment's commit {commit[:12]} is not in this repository or has no {path}; "
            "fetch it with `dvc exp pull`, or look in the repository where the run was"
        )
    return yaml_value(done.stdout)


def outputs(lock: dict[str, Any]) -> dict[str, str]:
    """Every output in a dvc.lock with its hash."""
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


def stage_runs(commit: str, lock: dict[str, Any]) -> dict[str, str]:
    """The MLflow run of each stage; one restored from the cache has the run that once made its outputs."""
    runs = {}
    for path in outputs(lock):
        if path.startswith("runs/") and Path(path).stem in lock["stages"]:
            with tempfile.TemporaryDirectory() as folder:
                fetched = fetch(commit, path, Path(folder, "run.json"))
                if fetched:
                    runs[Path(path).stem] = json.loads(fetched.read_text())["run_id"]
    return runs


def labelers(commit: str) -> dict[str, Any]:
    """Who ranked the comparisons that the reward model learnt from, and under which guideline versions."""
    with tempfile.TemporaryDirectory() as folder:
        table = f"{COMPARISONS}/comparisons.parquet"
        path = fetch(commit, table, Path(folder, "comparisons.parquet"))
        if path is None:
            return {"gone": f"{COMPARISONS} is no longer in DVC's cache or remote"}
        return ranked_by(read_table(path, COMPARISON))


def ranked_by(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Who made these rankings: how many there are, `people` with group and number, `guideline versions`."""
    groups = {str(row["labeler_id"]): str(row["labeler_group"]) for row in rows}
    return {
        "rankings": len(rows),
        "people": {
            labeler: {"group": groups[labeler], "rankings": count}
            for labeler, count in sorted(Counter(str(row["labeler_id"]) for row in rows).items())
        },
        "guideline versions": dict(sorted(Counter(str(row["guideline_version"]) for row in rows).items())),
    }


def fetch(commit: str, path: str, target: Path) -> Path | None:
    """An output as an experiment has it, from DVC's cache or remote; None where nobody has it any more.

    Raises:
        DataError: the copy there is damaged.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    try:
        files = DVCFileSystem(str(Path.cwd()), rev=commit)
        files.get_file(path, str(target))
        wanted = files.info(path).get("md5")
    except (DvcException, OSError):
        return None
    with target.open("rb") as handle:
        if wanted and hashlib.file_digest(handle, "md5").hexdigest() != wanted:
            raise DataError(
                f"{path} of commit {commit[:12]} is damaged in DVC's cache; a run with the same parameters "
                "makes it again"
            )
    return target


def show(origin: dict[str, Any]) -> str:
    """The ancestry as text."""
    model, runs, experiment = origin["model"], origin["runs"], origin.get("experiment", {})
    aliases = "".join(f" @{alias}" for alias in model["aliases"])
    lines = [f"model       {model['name']} version {model['version']}{aliases}"]
    lines += [f"  {key:<24} {value}" for key, value in model["tags"].items()]
    lines.append(f"run         {runs.get('name', '(a stage run by hand)')}")
    for key in ("prefect flow run", "pipeline", "register"):
        if key in runs:
            lines.append(f"  {key if key == 'prefect flow run' else f'MLflow run, {key}':<24} {runs[key]}")
    lines.append(f"experiment  {experiment.get('name') or '(none: not run by the flow)'}")
    lines.append(f"  {'commit':<24} {experiment.get('commit', '')}")
    lines.append(f"  {'based on git commit':<24} {experiment.get('git commit', '')}")
    for title in ("data", "models"):
        if title in origin:
            lines.append(f"{title:<11} DVC's hashes")
            lines += [f"  {path:<24} {md5}" for path, md5 in origin[title].items()]
    if origin.get("labelers"):
        ranked = origin["labelers"]
        if "gone" in ranked:
            lines.append(f"labelers    {ranked['gone']}")
        else:
            lines.append(f"labelers    {len(ranked['people'])}, {ranked['rankings']} rankings")
            for labeler, row in ranked["people"].items():
                lines.append(f"  {labeler:<24} {row['group']}, {row['rankings']} rankings")
            lines.append("guideline   versions")
            lines += [
                f"  {name:<24} {count} rankings" for name, count in ranked["guideline versions"].items()
            ]
    if "stages" in runs:
        lines.append("stages      MLflow runs")
        lines += [f"  {name:<24} {run}" for name, run in runs["stages"].items()]
    if "params" in origin:
        lines.append("params")
        lines += [f"  {key:<32} {value}" for key, value in origin["params"].items()]
    return "\n".join(lines)


def reproduce(origin: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Run an experiment again from nothing; returns (path, hash then, hash now) of every output.

    Its worktree has an empty cache and its own checkpoints, so that nothing can be restored. Stages that
    write nothing but records and pages (`register`) stay out: they would move the registry's aliases.

    Raises:
        StageError: the model has no experiment, or a stage failed.
    """
    experiment = origin.get("experiment", {})
    commit = experiment.get("commit")
    if not commit:
        raise StageError("this model was not made by a flow run: no experiment says what to run again")
    tree = (RUNS / f"reproduce-{experiment['name']}").resolve()
    lock = at(commit, "dvc.lock")
    open_worktree(tree, f"{commit}^", commit, cache=False)
    # `dvc exp save` has committed a file that only DVC needs.
    forget = ["rm", "--quiet", "--cached", "--ignore-unmatch", ".dvc/tmp/repro.dat"]
    subprocess.run(["git", "-C", str(tree), *forget], check=True)
    # Only what is linked is read: the code of that commit may call the rest otherwise.
    params = at(commit, "params.yaml")
    reward_model = params.get("ppo", {}).get("reward_model", "trained")
    read = {"ingest": params.get("ingest", {}), "ppo": {"reward_model": reward_model}}
    link_data(check_settings(read, "params.yaml"), tree)
    wanted = [
        name
        for name, stage in lock["stages"].items()
        if any(not out["path"].startswith(VARYING) for out in stage.get("outs", []))
    ]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with tempfile.TemporaryDirectory() as checkpoints:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *wanted],
            cwd=tree,
            env={**os.environ, "PATH": path, "RLHF_CHECKPOINTS": checkpoints, "PYTHONWARNINGS": "ignore"},
            check=False,
        )
    if done.returncode:
        raise StageError(f"a stage failed; its worktree is {tree}")
    then, now = outputs(lock), outputs(yaml.safe_load((tree / "dvc.lock").read_text()))
    return [(path, then[path], now.get(path, "missing")) for path in then if not path.startswith(VARYING)]


def main(arguments: list[str] | None = None) -> None:
    """The command line; ends with exit code 1 and one line where a model is not traced or outputs differ."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.trace",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="URI", help="models:/NAME@ALIAS or models:/NAME/VERSION")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--reproduce", action="store_true", help="run it again and compare all hashes")
    options = parser.parse_args(arguments)
    with one_line_errors():
        for name, value in running_environment().items():
            os.environ.setdefault(name, value)
        connect()
        origin = trace(options.model)
        print(json.dumps(origin, indent=2) if options.json else show(origin))
        if options.reproduce:
            rows = reproduce(origin)
            differ = [path for path, then, now in rows if then != now]
            for path, then, now in rows:
                print(f"{'differs' if path in differ else 'same':<8} {path:<28} {then} {now}")
            if differ:
                raise StageError(f"{len(differ)} of {len(rows)} outputs differ")
            print(f"all {len(rows)} outputs have the same hashes")


if __name__ == "__main__":
    main()
