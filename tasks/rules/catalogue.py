"""All rules, in the order in which they are checked; a rule that is added to a module is here unasked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from rlhf.settings import SettingsError
from tasks.rules import (
    contents,
    drift,
    identity,
    labels,
    leakage,
    near_copies,
    presence,
    rankings,
    splits,
    texts,
)
from tasks.rules.rule import Asked, Rule

RULES: tuple[Rule, ...] = (
    *presence.RULES,
    *contents.RULES,
    *rankings.RULES,
    *splits.RULES,
    *identity.RULES,
    *near_copies.RULES,
    *leakage.RULES,
    *texts.RULES,
    *labels.RULES,
    *drift.RULES,
)
BY_NAME = {rule.name: rule for rule in RULES}


def rules_of(table: str, asked: Asked) -> list[Rule]:
    """The rules of a table, with these parameters."""
    return [rule for rule in RULES if table in rule.tables and rule.applies(table, asked)]


def problem_with(severities: Mapping[str, str], thresholds: Mapping[str, float]) -> str | None:
    """What is wrong with `validate.rules` and `validate.thresholds`, in one line; None where nothing is."""
    for section, names in (("rules", severities), ("thresholds", thresholds)):
        for name in names:
            if name not in BY_NAME:
                close = difflib.get_close_matches(name, BY_NAME, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                return (
                    f"validate.{section}: no rule is called {name!r}{hint} (`python -m tasks.rules` lists "
                    "them)"
                )
    for name, severity in severities.items():
        if severity == "quarantine" and BY_NAME[name].figure:
            return f"validate.rules: {name} is about a whole table, so no row can be set aside; stop or warn"
    for name in thresholds:
        default = BY_NAME[name].threshold
        if isinstance(default, str):
            return f"validate.thresholds: the threshold of {name} is {default}; set that"
        if default is None or BY_NAME[name].unit == "":
            return f"validate.thresholds: {name} has no threshold; leave it out"
    return None


def refuse_unknown(severities: Mapping[str, str], thresholds: Mapping[str, float]) -> None:
    """Refuse names that no rule has, and what a rule cannot do.

    Raises:
        SettingsError: in one line, with the nearest name.
    """
    problem = problem_with(severities, thresholds)
    if problem:
        raise SettingsError(problem)


def markdown() -> str:
    """The rules as a table, for the docs."""
    lines = ["| rule | what holds | why | severity | threshold |", "|---|---|---|---|---|"]
    for rule in RULES:
        limit = f"`{rule.threshold}`" if isinstance(rule.threshold, str) else f"{rule.threshold} {rule.unit}"
        shown = limit if rule.unit or isinstance(rule.threshold, str) else ""
        number = f"{rule.threshold:g}" if isinstance(rule.threshold, int | float) else limit
        text = rule.text.replace("{threshold}", number).replace("{table}", "rows")
        where = ", ".join(rule.tables)
        lines.append(
            f"| `{rule.name}` | {text} ({where}) | {rule.reason} | {rule.severity} | {shown.strip()} |"
        )
    return "\n".join(lines) + "\n"
