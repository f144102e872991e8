"""Handing out items: which item a person gets next, and the leases that keep it theirs for a while.

An item is handed out as a lease with a key; the form that is rendered from it carries the key, so that the
same form sent twice is one label. `items.taken` counts labels and open leases and never passes the target,
except by a label that comes after its lease ran out: work that a person did is kept.
"""

from __future__ import annotations

import random
import secrets
import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from labeling.people import User
from labeling.prepared import Prepared
from labeling.schema import ASK, items, labels, leases, queues
from labeling.store import Store
from rlhf.data.errors import DataError

_random = random.SystemRandom()


class Gone(DataError):
    """What was asked for does not exist, or not for this person."""


@dataclass(frozen=True)
class Work:
    """An item as one labeler sees it: texts in the shown order, no policy names. `messages` are the turns of
    a conversation, None where the prompt is plain text."""

    key: str
    item_id: int
    queue_id: int
    kind: str
    role: str
    prompt: str
    messages: list[dict[str, str]] | None
    texts: list[str]
    shown_order: list[int]
    expires: float


def shuffled(number: int) -> list[int]:
    """A random order in which to show this many texts."""
    return _random.sample(range(number), number)


_QUEUE = Prepared(sa.select(queues).where(queues.c.id == sa.bindparam("queue")))


def queue_for(tx: sa.Connection, user: User, queue: int) -> sa.Row[Any]:
    """A queue that this user may work in.

    Raises:
        Gone: there is none with this number for this user.
    """
    rows = _QUEUE(tx, queue=queue)
    if not rows or not is_open_to(user, rows[0]):
        raise Gone("there is no such queue for you")
    return rows[0]


def is_open_to(user: User, queue: Any) -> bool:
    """Whether a user may work in a queue; `queue` has its columns `active`, `kind` and `group_id`."""
    return queue.active and queue.kind != ASK and queue.group_id in (None, user.group_id)


_SHOWN = items.c.id, items.c.prompt, items.c.messages, items.c.outputs, items.c.reference, items.c.role
_HELD = Prepared(
    sa.select(leases.c.key, leases.c.shown_order, leases.c.expires, queues.c.kind, *_SHOWN)
    .join_from(leases, items)
    .join(queues, queues.c.id == leases.c.queue_id)
    .where(
        leases.c.user_id == sa.bindparam("user"),
        leases.c.queue_id == sa.bindparam("queue"),
        leases.c.state == "open",
        leases.c.expires > sa.bindparam("now"),
    )
    .order_by(leases.c.id.desc())
    .limit(1)
)


def held(tx: sa.Connection, user: User, queue: int) -> Work | None:
    """The item that this user has in hand in a queue; of several, the one handed out last."""
    rows = _HELD(tx, user=user.id, queue=queue, now=time.time())
    if not rows:
        return None
    row = rows[0]
    return _work(row, queue, row.kind, row.key, row.shown_order, row.expires)


def _work(item: Any, queue: int, kind: str, key: str, order: list[int], expires: float) -> Work:
    texts = [item.outputs[0], item.reference] if kind == "judge" else item.outputs
    # Without the blanks around a conversation's outputs, which would tell a model's from a person's.
    shown = [texts[index].strip() for index in order]
    said = item.prompt, item.messages
    return Work(key, item.id, queue, kind, item.role, *said, shown, order, expires)


_own_leases = leases.alias("mine")
_next = items.alias("next")
_first = labels.alias("first")


def never_had(item: sa.FromClause) -> sa.ColumnElement[bool]:
    """A condition: the bound `user` was never handed the item, or let the lease run out.

    The offset keeps PostgreSQL from turning the condition into a join that reads all leases of the user: one
    lookup in an index for each item is right, whatever PostgreSQL knows of the tables' sizes.
    """
    had = sa.select(_own_leases.c.id).where(
        _own_leases.c.item_id == item.c.id,
        _own_leases.c.user_id == sa.bindparam("user"),
        _own_leases.c.state != "expired",
    )
    return ~had.correlate(item).offset(sa.literal_column("0")).exists()


_FREE = (
    sa.select(_next.c.id)
    .where(
        _next.c.queue_id == sa.bindparam("queue"),
        sa.text("taken < target"),  # as text, because SQLite recognises the partial index by it
        never_had(_next),
        sa.or_(
            _next.c.repeat_of.is_(None),
            sa.exists().where(
                _first.c.item_id == _next.c.repeat_of,
                _first.c.user_id == sa.bindparam("user"),
                _first.c.status == "given",
            ),
        ),
    )
    .order_by(_next.c.position)
    .limit(1)
    .with_for_update(skip_locked=True, of=_next)
)
_TAKE = Prepared(
    items.update()
    .where(items.c.id == _FREE.scalar_subquery())
    .values(taken=items.c.taken + 1)
    .returning(*_SHOWN)
)
_TAKEN = Prepared(
    items.update()
    .where(items.c.id == sa.bindparam("item"))
    .values(taken=items.c.taken + sa.bindparam("change"))
)
_LEASE = Prepared(leases.insert().inline(), [column.name for column in leases.c if column.name != "id"])


def take(tx: sa.Connection, user: User, queue: int, kind: str, lease_seconds: int) -> Work | None:
    """Hand the next item of a queue to this user; None when nothing is left for them."""
    rows = _TAKE(tx, queue=queue, user=user.id)
    if not rows:
        return None
    [item] = rows
    order = shuffled(2 if kind == "judge" else len(item.outputs))
    key, expires = lease(tx, item.id, queue, user.id, order, lease_seconds)
    return _work(item, queue, kind, key, order, expires)


def lease(
    tx: sa.Connection, item: int, queue: int, user: int, order: list[int], seconds: float
) -> tuple[str, float]:
    """Lease an item to a user, shown in this order; the lease's key, and when it runs out."""
    key, now = secrets.token_urlsafe(18), time.time()
    values = {"item_id": item, "queue_id": queue, "user_id": user, "key": key, "shown_order": order}
    _LEASE(tx, **values, state="open", taken=now, expires=now + seconds)
    return key, now + seconds


def count_taken(tx: sa.Connection, item: int, change: int) -> None:
    """Change the number of labels and open leases of an item."""
    _TAKEN(tx, item=item, change=change)


def next_work(store: Store, user: User, queue: int) -> Work | None:
    """What this user has in hand in a queue, else the next item; None when nothing is left for them.

    Raises:
        Gone: there is no such queue for this user.
    """

    def held_or_next(tx: sa.Connection) -> Work | None:
        row = queue_for(tx, user, queue)
        return held(tx, user, queue) or take(tx, user, queue, row.kind, row.lease_seconds)

    for _ in range(2):
        if work := store.together(held_or_next):
            return work
        if not expire(store):  # only now, so that items whose lease ran out come after those never handed out
            break
    return None


def expire(store: Store) -> int:
    """End the leases that ran out, so that their items can be handed out again; returns how many."""
    with store.write() as tx:
        late = sa.select(leases.c.id).where(leases.c.state == "open", leases.c.expires < time.time())
        numbers = tx.scalars(late.with_for_update(skip_locked=True)).all()
        if numbers:
            ended = leases.update().where(leases.c.id.in_(numbers)).values(state="expired")
            for item in sorted(tx.scalars(ended.returning(leases.c.item_id))):
                count_taken(tx, item, -1)
        return len(numbers)
