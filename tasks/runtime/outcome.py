"""The dozen figures by which `dvc exp show` compares runs; everything else is an output and no metric.

`metrics/summary.json` has the rate with its interval, n and judge. `runs/summary.json` has what depends on
where and when a run was made: whether it was promoted, what it cost, and which parameters differ from those
of the commit that it is based on.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.data.files import read_json, written_beside
from rlhf.settings import SettingsError, check_settings, known_keys, load_settings, params_of
from tasks.graph import flat, stages
from tasks.runtime.stage import stage_cost

WIDTH = 20  # characters of the parameters that differ: the table has to fit 120 columns of a terminal


def write_rate(evaluation: Mapping[str, Any]) -> None:
    """Write metrics/summary.json: PPO's rate, its interval, n and judge."""
    row = evaluation["policies"]["ppo"]
    rate = {key: round(row[key], 3) for key in ("rate", "low", "high")}
    _write("metrics/summary.json", rate | {"n": row["n"], "judge": evaluation["judge"]["name"]})


def write_outcome(promoted: bool) -> dict[str, float]:
    """Write runs/summary.json: promoted or not, seconds of all stages, and what differs from the commit.

    Returns:
        `total_cost`.
    """
    cost = total_cost()
    outcome = {
        "promoted": "yes" if promoted else "no",
        "seconds": round(cost["seconds"]),
        "changed": in_short(changed_parameters()),
    }
    _write("runs/summary.json", outcome)
    return cost


def total_cost() -> dict[str, float]:
    """Seconds of all stages together and the largest of their memory peaks, this process included.

    A stage restored from DVC's cache counts as it was when it ran: what the run would cost from nothing.
    """
    costs = [stage_cost()]
    for name in stages():
        path = Path(f"runs/{name}.json")
        if path.exists():
            costs.append(read_json(path).get("cost", {"seconds": 0.0, "memory_mb": 0.0}))
    return {
        "seconds": sum(cost["seconds"] for cost in costs),
        "memory_mb": max(cost["memory_mb"] for cost in costs),
    }


def changed_parameters(path: Path = Path("params.yaml")) -> dict[str, Any]:
    """The parameters of a params file that differ from its version in the commit; `ingest.path` left out.

    Empty where there is no such version: outside git, before the first commit, or where it is not valid.
    """
    done = subprocess.run(["git", "show", f"HEAD:./{path}"], capture_output=True, text=True, check=False)
    if done.returncode:
        return {}
    try:
        before = check_settings(params_of(done.stdout, f"HEAD:{path}"), f"HEAD:{path}")
    except SettingsError:
        return {}
    now = load_settings(path)
    old, new = (flat(values.model_dump(by_alias=True)) for values in (before, now))
    if type(before.base) is not type(now.base):  # what differs from the defaults of the new type
        defaults = {name: field.default for name, field in type(now.base).model_fields.items()}
        old = {key: value for key, value in old.items() if not key.startswith("base.")}
        old |= flat({"base": defaults | {"type": before.base.type}})
    # ingest.path names a machine; ingest.sha256 says which data it is. A dictionary may gain and lose keys.
    return {
        key: new.get(key)
        for key in dict.fromkeys([*new, *old])
        if old.get(key) != new.get(key) and key != "ingest.path"
    }


def in_short(changed: Mapping[str, Any], width: int = WIDTH) -> str:
    """Parameters as `kl_coef=0.1 seed=18 +3`: with the section where that is needed and fits; last, how many
    more there are."""
    last = [key.rsplit(".", 1)[-1] for key in known_keys()]
    bare = [f"{key.rsplit('.', 1)[-1]}={value}" for key, value in changed.items()]
    clear = [
        f"{key}={value}" if last.count(key.rsplit(".", 1)[-1]) > 1 else short
        for (key, value), short in zip(changed.items(), bare, strict=True)
    ]
    for count in range(len(changed), -1, -1):
        rest = [f"+{len(changed) - count}"] if count < len(changed) else []
        for parts in (clear, bare):
            text = " ".join([*parts[:count], *rest])
            if len(text) <= width:
                return text
    return ""


def _write(path: str, figures: Mapping[str, Any]) -> None:
    """Write JSON with its keys as they come: that is the order of DVC's columns."""
    with written_beside(path) as beside:
        beside.write_text(json.dumps(figures, indent=2) + "\n")
