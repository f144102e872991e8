"""How one person stands in a queue: what is done, what can be undone, how much is left."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from labeling.labels import is_superseded
from labeling.people import User
from labeling.prepared import Prepared
from labeling.schema import items, labels, queues
from labeling.work import Gone, is_open_to, never_had

MOST_LEFT = 50  # counted no further, so that a page costs the same in a queue of any size

_own_labels = labels.c.user_id == sa.bindparam("user"), labels.c.queue_id == sa.bindparam("queue")
_done = sa.select(
    sa.func.coalesce(sa.func.sum(sa.case((labels.c.status == "undone", -1), else_=1)), 0)
).where(*_own_labels)
_last = (
    sa.select(labels.c.id)
    .where(*_own_labels, labels.c.status != "undone", ~is_superseded())
    .order_by(labels.c.id.desc())
    .limit(1)
)
_left = sa.select(sa.func.count()).select_from(
    sa.select(items.c.id)
    .where(
        items.c.queue_id == sa.bindparam("queue"),
        sa.text("taken < target"),
        items.c.role != "repeat",
        never_had(items),
    )
    .order_by(items.c.position)  # so that PostgreSQL walks along the index and does not read the table
    .limit(MOST_LEFT)
    .subquery()
)
_STANDING = Prepared(
    sa.select(
        queues,
        _done.scalar_subquery().label("done"),
        _last.scalar_subquery().label("last"),
        _left.scalar_subquery().label("left"),
    ).where(queues.c.id == sa.bindparam("queue"))
)


def standing(tx: sa.Connection, user: User, queue: int) -> sa.Row[Any]:
    """How this user stands in a queue: its row and `done`, how many items they answered or skipped; `last`,
    their newest label that can be undone; `left`, how many items are left for them besides the one in hand,
    counted up to `MOST_LEFT`.

    Raises:
        Gone: there is no such queue for this user.
    """
    rows = _STANDING(tx, user=user.id, queue=queue)
    if not rows or not is_open_to(user, rows[0]):
        raise Gone("there is no such queue for you")
    return rows[0]
