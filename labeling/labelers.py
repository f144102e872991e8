"""Statistics of labelers: their speed and habits, and how far they agree with others over time.

Raw agreement is always shown with its n. Models that weigh labelers are in `labeling.quality`.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import sqlalchemy as sa

from labeling.answers import agreement
from labeling.contracts import tables
from labeling.labels import is_current
from labeling.schema import ASK, groups, items, labels, queues, users

EXPERT = "expert"  # the group whose answers others are held against
DAY = 24 * 3600.0
FAST = 3.0  # seconds; a median below it is a sign of clicking through


@dataclass(frozen=True)
class Agreement:
    """Mean agreement of pairs of people on the items that both answered; `pairs` is the n."""

    pairs: int
    rate: float | None


@dataclass(frozen=True)
class Labeler:
    """Statistics of one labeler; a rate without data is None.

    Attributes:
        labels: current labels.
        skipped: share of items that were skipped.
        seconds: median seconds per item.
        left: share of strict preferences for the text on the left; 0.5 is expected.
        longer: share of strict preferences for the longer text.
        ties: share of comparisons that are ties.
        gold, repeats: mean share right on gold items, and of hidden repeats answered as before.
        peers, experts: agreement with all other people, and with the group `expert`.
        early, late: agreement with others on the first and on the second half of the labels: drift.
        onboarding: mean share right of the onboarding items.
    """

    name: str
    group: str
    active: bool
    labels: int
    skipped: float | None
    seconds: float | None
    left: float | None
    longer: float | None
    ties: float | None
    gold: float | None
    gold_n: int
    repeats: float | None
    repeats_n: int
    onboarding: float | None
    peers: Agreement
    experts: Agreement
    early: Agreement
    late: Agreement

    @property
    def warnings(self) -> list[str]:
        """Signs of careless work, each in a few words."""
        signs = []
        if self.labels >= 20:
            if self.left is not None and abs(self.left - 0.5) > 0.2:
                signs.append(f"prefers the {'left' if self.left > 0.5 else 'right'} side")
            if self.seconds is not None and self.seconds < FAST:
                signs.append(f"median below {FAST:g} s")
        if self.gold is not None and self.gold_n >= 5 and self.gold < 0.6:
            signs.append("gold items below 0.6")
        return signs


def _rows(tx: sa.Connection, project: int | None = None) -> list[sa.Row[Any]]:
    """Current labels with their people and items, oldest first."""
    chosen = (
        sa.select(
            labels.c.id,
            labels.c.item_id,
            labels.c.user_id,
            labels.c.kind,
            labels.c.answer,
            labels.c.seconds,
            labels.c.shown_order,
            labels.c.labeler_group,
            labels.c.correct,
            labels.c.created,
            items.c.role,
            items.c.outputs,
            items.c.reference,
        )
        .join(items, items.c.id == labels.c.item_id)
        .join(queues, queues.c.id == labels.c.queue_id)
        .where(is_current(), queues.c.kind != ASK)
        .order_by(labels.c.id)
    )
    if project is not None:
        chosen = chosen.where(queues.c.project_id == project)
    return list(tx.execute(chosen))


def _pairs(rows: Iterable[sa.Row[Any]]) -> list[tuple[sa.Row[Any], sa.Row[Any], float]]:
    """Pairs of labels of one item by two people, the older first, with how far they agree."""
    by_item: dict[int, list[sa.Row[Any]]] = defaultdict(list)
    for row in rows:
        if row.role in ("work", "shared"):
            by_item[row.item_id].append(row)
    pairs = []
    for same_item in by_item.values():
        for older, newer in combinations(same_item, 2):
            rate = agreement(older.answer, newer.answer)
            if rate is not None:
                pairs.append((older, newer, rate))
    return pairs


def _mean(rates: Iterable[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) / len(known) if known else None


def _agreement(rates: list[float]) -> Agreement:
    return Agreement(len(rates), _mean(rates))


def agreement_by_period(
    tx: sa.Connection, project: int, days: int = 7
) -> tuple[list[str], list[tuple[str, dict[str, Agreement]]]]:
    """Agreement within each group and over all people, by period: column names, then a row for each period.

    A pair belongs to the period of its later label; the last row, `all`, is the whole time.
    """
    cells: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for older, newer, rate in _pairs(_rows(tx, project)):
        start = newer.created // (days * DAY) * days * DAY
        period = time.strftime("%Y-%m-%d", time.gmtime(start))
        same_group = older.labeler_group == newer.labeler_group
        for column in ["all"] + ([older.labeler_group] if same_group else []):
            cells[period][column].append(rate)
            cells["all"][column].append(rate)
    names = ["all", *sorted({column for row in cells.values() for column in row} - {"all"})]
    return names, [
        (period, {name: _agreement(cells[period][name]) for name in names}) for period in sorted(cells)
    ]


def agreement_by_group(tx: sa.Connection, project: str) -> dict[str, dict[str, Any]]:
    """Agreement on the comparisons of a project, of all people and within each group: raw, Krippendorff's
    alpha, Cohen's kappa."""
    rows = tables(tx, project)["comparisons"]
    if not rows:
        return {}
    from labeling.quality.agreement import agreement_by  # loads scipy: only where it is needed

    return agreement_by(rows, lambda row: "all") | agreement_by(rows, lambda row: row["labeler_group"])


def labelers(tx: sa.Connection, name: str | None = None) -> list[Labeler]:
    """Statistics of all labelers who labeled or skipped something, or of the one with this name."""
    rows = _rows(tx)
    mine: dict[int, list[sa.Row[Any]]] = defaultdict(list)
    for row in rows:
        mine[row.user_id].append(row)
    shared: dict[int, list[tuple[sa.Row[Any], sa.Row[Any], float]]] = defaultdict(list)
    for older, newer, rate in _pairs(rows):
        shared[older.user_id].append((older, newer, rate))
        shared[newer.user_id].append((newer, older, rate))
    skips: dict[int, int] = dict(
        tx.execute(
            sa.select(labels.c.user_id, sa.func.count())
            .where(labels.c.status == "skipped")
            .group_by(labels.c.user_id)
        )
        .tuples()
        .all()
    )
    people = sa.select(users.c.id, users.c.name, users.c.active, groups.c.name.label("group")).join(groups)
    if name is not None:
        people = people.where(users.c.name == name)
    chosen = tx.execute(people.order_by(users.c.name)).all()
    return [
        _labeler(person, mine[person.id], shared[person.id], skips.get(person.id, 0))
        for person in chosen
        if name is not None or mine[person.id] or skips.get(person.id)
    ]


def _labeler(
    person: Any,
    rows: list[sa.Row[Any]],
    pairs: list[tuple[sa.Row[Any], sa.Row[Any], float]],
    skips: int,
) -> Labeler:
    left, longer, ties = [], [], []
    for row in rows:
        sides = _sides(row)
        if sides is None:
            continue
        better, worse = sides
        ties.append(float(better is None))
        if better is not None and worse is not None:
            if row.shown_order:
                left.append(float(row.shown_order.index(better[0]) < row.shown_order.index(worse[0])))
            if len(better[1]) != len(worse[1]):
                longer.append(float(len(better[1]) > len(worse[1])))
    gold = [row.correct for row in rows if row.role == "gold" and row.correct is not None]
    repeats = [row.correct for row in rows if row.role == "repeat" and row.correct is not None]
    seconds = [row.seconds for row in rows if row.seconds is not None]
    middle = rows[len(rows) // 2].id if rows else 0
    return Labeler(
        person.name,
        person.group,
        person.active,
        len(rows),
        skips / (skips + len(rows)) if skips + len(rows) else None,
        statistics.median(seconds) if seconds else None,
        _mean(left),
        _mean(longer),
        _mean(ties),
        _mean(gold),
        len(gold),
        _mean(repeats),
        len(repeats),
        _mean(row.correct for row in rows if row.role == "onboarding"),
        _agreement([rate for _, _, rate in pairs]),
        _agreement([rate for _, other, rate in pairs if other.labeler_group == EXPERT]),
        _agreement([rate for own, _, rate in pairs if own.id < middle]),
        _agreement([rate for own, _, rate in pairs if own.id >= middle]),
    )


def _sides(row: sa.Row[Any]) -> tuple[tuple[int, str] | None, tuple[int, str] | None] | None:
    """The better and the worse of two texts, each with its index; (None, None) for a tie; None where a label
    is not about two texts."""
    if row.kind == "compare":
        texts, ranking = row.outputs, row.answer["ranking"]
    elif row.kind == "judge":
        texts = [row.outputs[0], row.reference]
        ranking = {"output": [1, 2], "reference": [2, 1], "tie": [1, 1]}[row.answer["preferred"]]
    else:
        return None
    if ranking[0] == ranking[1]:
        return None, None
    best = 0 if ranking[0] < ranking[1] else 1
    return (best, texts[best]), (1 - best, texts[1 - best])
