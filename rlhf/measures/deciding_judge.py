"""Which judge the gate reads in an evaluation, which others there are, and whether each may decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def judges_in_order(evaluation: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The key of the first judge, whose rates are the evaluation's own, and the keys of the others.

    `judge.key` says which is the first, because JSON keeps no order of `judges`.

    Args:
        evaluation: the content of metrics/evaluation.json.
    """
    first = evaluation["judge"]["key"]
    return first, [key for key in evaluation["judges"] if key != first]


def first_trust(evaluation: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What is known of the first judge: `decides`, `reason`, `accuracy`, `controls`.

    None in an evaluation from before judges were measured.
    """
    judge = evaluation.get("judges", {}).get(evaluation["judge"].get("key"), {})
    trust: Mapping[str, Any] | None = judge.get("trust")
    return trust


def may_decide(judge: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a judge may decide, and why. A model that nobody measured may not.

    Args:
        judge: its entry under `judges` of metrics/evaluation.json.
    """
    trust = judge.get("trust")
    if trust:
        return bool(trust["decides"]), trust["reason"]
    if judge["kind"] == "model":
        return False, "this judge is a model and was not measured, so nobody knows what it prefers"
    return True, f"the judge is no model ({judge['kind']})"
