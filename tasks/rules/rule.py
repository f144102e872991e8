"""What a rule is: a sentence, its reason, how grave a breach is, and the function that computes it.

A rule is data. Whoever adds one to a module of `tasks.rules.catalogue` adds it to the checks, the Data Docs,
the docs, the report and the parameters, because all of them read the same list.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from rlhf.settings import Prepare
from tasks.rules.view import Batch, Gathered, View

Severity = Literal["stop", "warn", "quarantine"]
Mask = np.ndarray[Any, np.dtype[np.bool_]]  # of rows: true where a row breaks the rule
TEXTS = ("prompts", "demonstrations", "comparisons", "votes")  # the tables whose rows have a prompt
ANSWERS = ("demonstrations", "comparisons", "votes")  # and those whose rows have answers too
FILL = "fill it or leave the row out"  # the mend of what must not be missing


class Figure(NamedTuple):
    """A number about a whole table, and what it says in words."""

    value: float
    said: str


@dataclass(frozen=True)
class Asked:
    """What the parameters say of the rules.

    Attributes:
        prepare: longest texts.
        severities: rule -> how grave a breach is, where it is not as the rule says itself.
        thresholds: rule -> its threshold, where it is not the rule's own.
        groups: the known labeler groups; None where people whom nobody listed gave the rankings.
        required: the tables that must have rows.
    """

    prepare: Prepare = field(default_factory=Prepare)
    severities: Mapping[str, Severity] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    groups: Collection[str] | None = None
    required: Collection[str] = ()


@dataclass(frozen=True)
class Rule:
    """One rule over one or several tables.

    Exactly one of `batch`, `rows` and `figure` is set.

    Attributes:
        name: what `validate.rules` and `validate.thresholds` call it.
        tables: the tables that it is about.
        text: what holds, as a person would say it; `{threshold}` and `{table}` stand for those.
        reason: why it should hold.
        mend: what to do about a breach.
        severity: `stop` ends the run, `warn` is said and counted, `quarantine` takes the rows out.
        threshold: a number, or the name of the parameter that holds it (`prepare.max_prompt_chars`); the
            known groups for `collect.groups`.
        unit: of the threshold, for the docs.
        show: the columns of which the first that a table has is shown as an example, or a function that says
            it of a row.
        batch: the rows of a batch that break it.
        rows: the rows of a whole table that break it, where that is known by comparing rows.
        figure: a number about the table, which must not exceed the threshold.
        needs: what `rows` and `figure` ask of each batch.
        least: the number must not be below the threshold instead.
        applies: whether the rule is asked for a table at all.
    """

    name: str
    tables: tuple[str, ...]
    text: str
    reason: str
    mend: str = "mend it or leave the row out"
    severity: Severity = "stop"
    threshold: float | str | None = None
    unit: str = ""
    show: tuple[str, ...] | Callable[[View, int], str] = ()
    batch: Callable[[Batch, Any], Mask] | None = None
    rows: Callable[[View, Any], Mask] | None = None
    figure: Callable[[View, Any], Figure | None] | None = None
    needs: tuple[Gathered, ...] = ()
    least: bool = False
    applies: Callable[[str, Asked], bool] = lambda table, asked: True

    def limit(self, asked: Asked) -> Any:
        """The threshold that holds with these parameters."""
        if self.threshold == "collect.groups":
            return sorted(asked.groups or ())
        if isinstance(self.threshold, str):
            return getattr(asked.prepare, self.threshold.removeprefix("prepare."))
        return asked.thresholds.get(self.name, self.threshold)

    def gravity(self, asked: Asked) -> Severity:
        """How grave a breach is with these parameters."""
        return asked.severities.get(self.name, self.severity)

    def filled(self, text: str, table: str, asked: Asked) -> str:
        """A text of this rule with the table's name and the threshold of these parameters."""
        limit = self.limit(asked)
        shown = ", ".join(limit) if isinstance(limit, list) else f"{limit:g}" if limit is not None else ""
        return text.replace("{threshold}", shown).replace("{table}", table)
