"""Handing out items and taking in labels: leases, labels, skips, undo, flags.

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

from labeling.answers import Choice, agreement, understand
from labeling.people import User
from labeling.projects import newest_guideline
from labeling.schema import ASK, flags, items, labels, leases, queues
from labeling.store import Prepared, Store, clean, record
from rlhf.data.errors import DataError

_random = random.SystemRandom()
_newer = labels.alias("newer")
SKIP_REASONS = ("I cannot tell", "Not my field", "The text is broken", "Harmful or private content", "Other")


class Gone(DataError):
    """What was asked for does not exist, or not for this person."""


@dataclass(frozen=True)
class Work:
    """An item as one labeler sees it: texts in the shown order, no policy names."""

    key: str
    item_id: int
    queue_id: int
    kind: str
    role: str
    prompt: str
    texts: list[str]
    shown_order: list[int]
    expires: float


def is_current() -> sa.ColumnElement[bool]:
    """A condition: the label is given, and no newer row supersedes it."""
    superseded = sa.exists().where(_newer.c.supersedes == labels.c.id)
    return sa.and_(labels.c.status == "given", ~superseded)


def shuffled(number: int) -> list[int]:
    """A random order in which to show so many texts."""
    return _random.sample(range(number), number)


def queue_for(tx: sa.Connection, user: User, queue: int) -> sa.Row[Any]:
    """A queue that this user may work in.

    Raises:
        Gone: there is none with this number for this user.
    """
    rows = _QUEUE(tx, queue=queue)
    if not rows or not _open_to(user, rows[0]):
        raise Gone("there is no such queue for you")
    return rows[0]


def _open_to(user: User, queue: Any) -> bool:
    return queue.active and queue.kind != ASK and queue.group_id in (None, user.group_id)


_QUEUE = Prepared(sa.select(queues).where(queues.c.id == sa.bindparam("queue")))

_SHOWN = items.c.id, items.c.prompt, items.c.outputs, items.c.reference, items.c.role
_LEASED = Prepared(
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
    """The item that this user has in hand in a queue, the newest first."""
    rows = _LEASED(tx, user=user.id, queue=queue, now=time.time())
    if not rows:
        return None
    row = rows[0]
    return _work(row, queue, row.kind, row.key, row.shown_order, row.expires)


def _work(item: Any, queue: int, kind: str, key: str, order: list[int], expires: float) -> Work:
    texts = [item.outputs[0], item.reference] if kind == "judge" else item.outputs
    shown = [texts[index] for index in order]
    return Work(key, item.id, queue, kind, item.role, item.prompt, shown, order, expires)


_mine = leases.alias("mine")
_next = items.alias("next")
_first = labels.alias("first")


def _never_had(item: sa.FromClause) -> sa.ColumnElement[bool]:
    """A condition: this user was not handed the item, or let the lease run out.

    The offset keeps PostgreSQL from making a join of it that reads all leases of the user: one look into an
    index for each item is right whatever it knows of the tables' sizes.
    """
    had = sa.select(_mine.c.id).where(
        _mine.c.item_id == item.c.id, _mine.c.user_id == sa.bindparam("user"), _mine.c.state != "expired"
    )
    return ~had.correlate(item).offset(sa.literal_column("0")).exists()


_FREE = (
    sa.select(_next.c.id)
    .where(
        _next.c.queue_id == sa.bindparam("queue"),
        sa.text("taken < target"),  # as text, so that SQLite sees the partial index
        _never_had(_next),
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


def _take(tx: sa.Connection, user: User, queue: int, kind: str, lease_seconds: int) -> Work | None:
    rows = _TAKE(tx, queue=queue, user=user.id)
    if not rows:
        return None
    [item] = rows
    order = shuffled(2 if kind == "judge" else len(item.outputs))
    key, expires = _lease(tx, item.id, queue, user.id, order, lease_seconds)
    return _work(item, queue, kind, key, order, expires)


def _lease(
    tx: sa.Connection, item: int, queue: int, user: int, order: list[int], seconds: int
) -> tuple[str, float]:
    key, now = secrets.token_urlsafe(18), time.time()
    values = {"item_id": item, "queue_id": queue, "user_id": user, "key": key, "shown_order": order}
    _LEASE(tx, **values, state="open", taken=now, expires=now + seconds)
    return key, now + seconds


def next_work(store: Store, user: User, queue: int) -> Work | None:
    """What this user has in hand in a queue, else the next item; None when nothing is left for them.

    Raises:
        Gone: there is no such queue for this user.
    """

    def take(tx: sa.Connection) -> Work | None:
        row = queue_for(tx, user, queue)
        return held(tx, user, queue) or _take(tx, user, queue, row.kind, row.lease_seconds)

    for _ in range(2):
        if found := store.together(take):
            return found
        if not expire(store):  # only now: items whose lease ran out come after those never handed out
            break
    return None


def expire(store: Store) -> int:
    """End the leases that ran out, so that their items can be handed out again; returns how many."""
    with store.write() as tx:
        late = sa.select(leases.c.id).where(leases.c.state == "open", leases.c.expires < time.time())
        found = tx.scalars(late.with_for_update(skip_locked=True)).all()
        if found:
            ended = leases.update().where(leases.c.id.in_(found)).values(state="expired")
            for item in sorted(tx.scalars(ended.returning(leases.c.item_id))):
                _TAKEN(tx, item=item, change=-1)
        return len(found)


def _own(value: sa.ColumnElement[Any]) -> sa.ScalarSelect[Any]:
    """A subquery over this person's labels of the leased item."""
    mine = labels.c.item_id == leases.c.item_id, labels.c.user_id == leases.c.user_id
    return sa.select(value).where(*mine).correlate(leases).scalar_subquery()


_OF_KEY = Prepared(
    sa.select(
        leases,
        items.c.outputs,
        items.c.expected,
        items.c.repeat_of,
        items.c.content_hash,
        items.c.role,
        queues.c.kind,
        queues.c.active,
        queues.c.group_id,
        queues.c.lease_seconds,
        newest_guideline(queues.c.project_id).label("guideline_version"),
        _own(sa.func.max(labels.c.revision)).label("revision"),
        _own(sa.func.max(labels.c.id)).label("last_label"),
        sa.exists()
        .where(
            _mine.c.user_id == leases.c.user_id,
            _mine.c.queue_id == leases.c.queue_id,
            _mine.c.state == "open",
            _mine.c.id != leases.c.id,
        )
        .label("holds_more"),
    )
    .join_from(leases, items)
    .join(queues, queues.c.id == leases.c.queue_id)
    .where(leases.c.key == sa.bindparam("key"), leases.c.user_id == sa.bindparam("user"))
    .with_for_update(of=leases)
)
_DONE = Prepared(leases.update().where(leases.c.id == sa.bindparam("lease")).values(state="done"))
_STORE = Prepared(
    labels.insert().returning(labels.c.id), [column.name for column in labels.c if column.name != "id"]
)


def _leased(tx: sa.Connection, user: User, key: str) -> sa.Row[Any]:
    rows = _OF_KEY(tx, key=key, user=user.id)
    if not rows:
        raise Gone("this item was not handed to you; go on with the next one")
    return rows[0]


@dataclass(frozen=True)
class Given:
    """An answer that is stored: its label, whether its rightness is told at once, else the next item."""

    label: int
    queue_id: int
    told: bool
    next: Work | None


def give_and_take(tx: sa.Connection, user: User, key: str, choice: Choice | None, note: str = "") -> Given:
    """Store an answer as `give` does and lease the next item of its queue, in one transaction.

    Raises:
        Gone: this user was never handed an item under this key, or may no longer work in its queue.
        DataError: the choice does not answer the item.
    """
    lease = _leased(tx, user, key)
    if not _open_to(user, lease):
        raise Gone("there is no such queue for you")
    label = _store(tx, user, lease, choice, note, lease.kind)
    told, queue = lease.role == "onboarding", lease.queue_id
    if told:
        return Given(label, queue, told, None)
    more = lease.holds_more or lease.state == "done"  # of a form that came again
    then = held(tx, user, queue) if more else None
    return Given(label, queue, told, then or _take(tx, user, queue, lease.kind, lease.lease_seconds))


def give(
    tx: sa.Connection,
    user: User,
    key: str,
    choice: Choice | None,
    note: str = "",
    kind: str | None = None,
) -> int:
    """Store the answer to a leased item, or with no choice that it was skipped; returns the label's id.

    The same key again returns the label that is there. Seconds run from when the item was handed out.

    Args:
        tx: a writing transaction.
        user: who answers.
        key: of the lease.
        choice: what was chosen; None to skip.
        note: a remark; the reason of a skip.
        kind: what was answered, where the queue leaves it open (answers of the served model).

    Raises:
        Gone: this user was never handed an item under this key.
        DataError: the choice does not answer the item.
    """
    lease = _leased(tx, user, key)
    return _store(tx, user, lease, choice, note, kind or lease.kind)


def _store(
    tx: sa.Connection, user: User, lease: sa.Row[Any], choice: Choice | None, note: str, kind: str
) -> int:
    note = clean(note, "the note", 2000, empty=True).strip()
    if lease.state == "done":
        return tx.scalars(sa.select(labels.c.id).where(labels.c.key == lease.key)).one()
    answer: dict[str, Any] | None = None
    strength = None
    if choice is not None:
        answer, strength = understand(kind, choice, lease.shown_order, lease.outputs)
    elif not note:
        raise DataError("say why you skip it")
    values = {
        "item_id": lease.item_id,
        "queue_id": lease.queue_id,
        "user_id": user.id,
        "revision": (lease.revision or 0) + 1,
        "supersedes": lease.last_label,
        "key": lease.key,
        "kind": kind,
        "status": "given" if choice is not None else "skipped",
        "answer": answer,
        "strength": strength,
        "seconds": round(time.time() - lease.taken, 3),
        "shown_order": lease.shown_order,
        "labeler_group": user.group,
        "guideline_version": lease.guideline_version,
        "content_hash": lease.content_hash,
        "note": note,
        "correct": _correct(tx, user, lease, answer),
        "created": time.time(),
    }
    [stored] = _STORE(tx, **values)
    _DONE(tx, lease=lease.id)
    change = (choice is not None) - (lease.state == "open")  # an open lease was counted already
    if change:
        _TAKEN(tx, item=lease.item_id, change=change)
    return stored.id


def _correct(
    tx: sa.Connection, user: User, lease: sa.Row[Any], answer: dict[str, Any] | None
) -> float | None:
    """How right an answer is: against the known answer, or for a repeat against the person's own first
    one."""
    expected = lease.expected
    if lease.repeat_of is not None:
        first = sa.select(labels.c.answer).where(
            labels.c.item_id == lease.repeat_of, labels.c.user_id == user.id, is_current()
        )
        expected = tx.scalar(first)
    return agreement(expected, answer) if expected and answer else None


def undo(tx: sa.Connection, user: User, label: int) -> int:
    """Take a label back: a superseding row says so, and the item is in the user's hands again, in the same
    order. Returns its queue. A label that is undone already stays so.

    Raises:
        Gone: not a label of this user.
        DataError: a newer label of the same item superseded it.
    """
    row = tx.execute(sa.select(labels).where(labels.c.id == label, labels.c.user_id == user.id)).first()
    if row is None:
        raise Gone("there is no such label of yours")
    [queue] = _QUEUE(tx, queue=row.queue_id)
    tx.execute(sa.select(items.c.id).where(items.c.id == row.item_id).with_for_update())
    newer = tx.execute(sa.select(labels.c.status).where(labels.c.supersedes == label)).first()
    if row.status == "undone" or (newer and newer.status == "undone"):
        return row.queue_id
    if newer:
        raise DataError("a newer label of yours replaced this one; undo that one")
    values = {c.name: getattr(row, c.name) for c in labels.c if c.name not in ("id", "answer", "correct")}
    values |= {"revision": row.revision + 1, "supersedes": row.id, "key": f"undo-{row.id}"}
    values |= {"status": "undone", "note": "", "strength": None, "created": time.time()}
    tx.execute(labels.insert(), values)
    _lease(tx, row.item_id, queue.id, user.id, row.shown_order, queue.lease_seconds)
    if row.status == "skipped":
        _TAKEN(tx, item=row.item_id, change=1)
    return row.queue_id


def flag(tx: sa.Connection, user: User, key: str, note: str) -> int:
    """Flag the item of a lease for the operators, with a note; returns its queue.

    Raises:
        Gone: this user was never handed an item under this key.
    """
    note = clean(note, "the note", 2000).strip()
    lease = _leased(tx, user, key)
    tx.execute(flags.insert().values(item_id=lease.item_id, user_id=user.id, note=note, created=time.time()))
    record(tx, user.name, "flag item", item=lease.item_id)
    return lease.queue_id


MOST_LEFT = 50  # counted no further, so that a page costs the same in a queue of any size
_of_mine = labels.c.user_id == sa.bindparam("user"), labels.c.queue_id == sa.bindparam("queue")
_done = sa.select(
    sa.func.coalesce(sa.func.sum(sa.case((labels.c.status == "undone", -1), else_=1)), 0)
).where(*_of_mine)
_last = (
    sa.select(labels.c.id)
    .where(*_of_mine, labels.c.status != "undone", ~sa.exists().where(_newer.c.supersedes == labels.c.id))
    .order_by(labels.c.id.desc())
    .limit(1)
)
_left = sa.select(sa.func.count()).select_from(
    sa.select(items.c.id)
    .where(
        items.c.queue_id == sa.bindparam("queue"),
        sa.text("taken < target"),
        items.c.role != "repeat",
        _never_had(items),
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
    if not rows or not _open_to(user, rows[0]):
        raise Gone("there is no such queue for you")
    return rows[0]
