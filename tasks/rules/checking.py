"""Computing the rules over a table: a column of true and false for each rule of rows, a number for others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rlhf.data.plural import plural
from tasks.rules.rule import Asked, Figure, Mask, Rule
from tasks.rules.view import Batch, View


@dataclass(frozen=True)
class Finding:
    """A breach of a rule by a table.

    Attributes:
        table, rule: their names.
        severity: `stop`, `warn`, or `quarantine` for rows that were taken out.
        text: what should hold.
        rows: how many rows break it; None where the rule is about a number.
        example: the first of them, personal data masked, or the number in words.
        mend: what to do about it.
    """

    table: str
    rule: str
    severity: str
    text: str
    rows: int | None
    example: str
    mend: str

    def line(self) -> str:
        """The finding in one line."""
        if self.rows is None:
            return f"{self.table}: broken rule: {self.text} ({self.example}); {self.mend}"
        return (
            f"{self.table}: broken rule: {self.text}; {plural(self.rows, 'row')}, such as "
            f"{self.example}; {self.mend}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Checked:
    """What was computed for a table.

    Attributes:
        view: of the table.
        rules: the rules that were asked.
        masks: rule -> the rows that break it.
        figures: rule -> its number; None where there are too few rows to say one.
    """

    view: View
    rules: Sequence[Rule]
    masks: dict[str, Mask]
    figures: dict[str, Figure | None]


def compute(view: View, rules: Sequence[Rule], asked: Asked) -> Checked:
    """Compute rules over a table, batch by batch where a row's breach is told by the row alone."""
    limits = {rule.name: rule.limit(asked) for rule in rules}
    alone = [rule for rule in rules if rule.batch]
    masks = {rule.name: np.zeros(view.size, bool) for rule in alone}
    at = 0
    for batch in view.gathering([need for rule in rules for need in rule.needs]):
        for rule in alone:
            masks[rule.name][at : at + batch.size] = _of_batch(rule, batch, limits[rule.name])
        at += batch.size
    masks |= {rule.name: rule.rows(view, limits[rule.name]) for rule in rules if rule.rows}
    figures = {rule.name: rule.figure(view, limits[rule.name]) for rule in rules if rule.figure}
    return Checked(view, rules, masks, figures)


def _of_batch(rule: Rule, batch: Batch, limit: Any) -> Mask:
    assert rule.batch
    return rule.batch(batch, limit)


def finding_of_rows(checked: Checked, rule: Rule, number: int, count: int, asked: Asked) -> Finding:
    """The finding of a rule that rows break.

    Args:
        checked: what was computed.
        rule: the rule.
        number: the first such row, from 0.
        count: how many there are.
        asked: what the parameters say.
    """
    view = checked.view
    return Finding(
        view.name,
        rule.name,
        rule.gravity(asked),
        rule.filled(rule.text, view.name, asked),
        count,
        f"{view.place(number)} ({example(view, rule, number)})",
        rule.filled(rule.mend, view.name, asked),
    )


def finding_of_figure(checked: Checked, rule: Rule, asked: Asked) -> Finding:
    """The finding of a rule whose number lies beyond its threshold."""
    figure, name = checked.figures[rule.name], checked.view.name
    return Finding(
        name,
        rule.name,
        rule.gravity(asked),
        rule.filled(rule.text, name, asked),
        None,
        figure.said if figure else "",
        rule.filled(rule.mend, name, asked),
    )


def example(view: View, rule: Rule, number: int) -> str:
    """What a row shows of a breach, in a few characters, personal data masked."""
    from tasks.rules.personal_data import masked

    if callable(rule.show):
        return rule.show(view, number)
    row = view.row(number)
    shown = next((column for column in rule.show if column in row), "id")
    text = ascii(masked(row[shown]))
    return f"{shown} {text if len(text) <= 60 else text[:57] + '...'}"
