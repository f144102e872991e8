"""How far queues are: items, labels wanted and given, checks and flags."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from labeling.labels import is_current
from labeling.schema import flags, groups, items, labels, queues


def queue_progress(tx: sa.Connection, project: int | None = None) -> list[dict[str, Any]]:
    """Each queue with its items, labels wanted and labels given (gold, onboarding and repeats apart)."""
    counted = (
        sa.select(
            items.c.queue_id,
            sa.func.count().label("items"),
            sa.func.sum(items.c.target).label("wanted"),
            sa.func.sum(sa.case((items.c.taken < items.c.target, items.c.taken), else_=items.c.target)).label(
                "taken"
            ),
        )
        .where(items.c.role.in_(("work", "shared")))
        .group_by(items.c.queue_id)
        .subquery()
    )
    checks = (
        sa.select(items.c.queue_id, sa.func.count().label("checks"))
        .where(items.c.role.not_in(("work", "shared")))
        .group_by(items.c.queue_id)
        .subquery()
    )
    labeled = (
        sa.select(labels.c.queue_id, sa.func.count().label("labels"))
        .where(is_current())
        .group_by(labels.c.queue_id)
        .subquery()
    )
    flagged = (
        sa.select(items.c.queue_id, sa.func.count().label("flags"))
        .join_from(flags, items)
        .group_by(items.c.queue_id)
        .subquery()
    )
    rows = (
        sa.select(
            queues,
            groups.c.name.label("group"),
            sa.func.coalesce(counted.c["items"], 0).label("items"),
            sa.func.coalesce(counted.c.wanted, 0).label("wanted"),
            sa.func.coalesce(counted.c.taken, 0).label("taken"),
            sa.func.coalesce(checks.c.checks, 0).label("checks"),
            sa.func.coalesce(labeled.c.labels, 0).label("labels"),
            sa.func.coalesce(flagged.c.flags, 0).label("flags"),
        )
        .outerjoin(groups, groups.c.id == queues.c.group_id)
        .outerjoin(counted, counted.c.queue_id == queues.c.id)
        .outerjoin(checks, checks.c.queue_id == queues.c.id)
        .outerjoin(labeled, labeled.c.queue_id == queues.c.id)
        .outerjoin(flagged, flagged.c.queue_id == queues.c.id)
        .order_by(queues.c.project_id, queues.c.id)
    )
    if project is not None:
        rows = rows.where(queues.c.project_id == project)
    return [dict(row._mapping) for row in tx.execute(rows)]
