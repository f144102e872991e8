"""Taking in labels: answers, skips, undo, flags. No row is changed: a newer label supersedes an older one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from labeling.answers import Choice, agreement, understand
from labeling.people import User
from labeling.prepared import Prepared
from labeling.projects import newest_guideline
from labeling.queues import queue_by_id
from labeling.rows import clean, record
from labeling.schema import flags, items, labels, leases, queues
from labeling.work import Gone, Work, count_taken, held, is_open_to, lease, take
from rlhf.data.errors import DataError

SKIP_REASONS = ("I cannot tell", "Not my field", "The text is broken", "Harmful or private content", "Other")

_newer = labels.alias("newer")
_other_leases = leases.alias("mine")


def is_superseded() -> sa.ColumnElement[bool]:
    """A condition: a newer row supersedes the label."""
    return sa.exists().where(_newer.c.supersedes == labels.c.id)


def is_current() -> sa.ColumnElement[bool]:
    """A condition: the label is given, and no newer row supersedes it."""
    return sa.and_(labels.c.status == "given", ~is_superseded())


def _own(value: sa.ColumnElement[Any]) -> sa.ScalarSelect[Any]:
    """A subquery over this person's labels of the leased item."""
    mine = labels.c.item_id == leases.c.item_id, labels.c.user_id == leases.c.user_id
    return sa.select(value).where(*mine).correlate(leases).scalar_subquery()


_LEASE_OF_KEY = Prepared(
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
            _other_leases.c.user_id == leases.c.user_id,
            _other_leases.c.queue_id == leases.c.queue_id,
            _other_leases.c.state == "open",
            _other_leases.c.id != leases.c.id,
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


def _lease_of(tx: sa.Connection, user: User, key: str) -> sa.Row[Any]:
    """A lease of this user with its item and queue, by its key.

    Raises:
        Gone: there is none.
    """
    rows = _LEASE_OF_KEY(tx, key=key, user=user.id)
    if not rows:
        raise Gone("this item was not handed to you; go on with the next one")
    return rows[0]


@dataclass(frozen=True)
class StoredAnswer:
    """An answer that is stored, and what comes next.

    Attributes:
        label: the id of its label.
        queue_id: the queue of its item.
        told: whether the person is told at once if it is right; there is no next item then.
        next: the next item of the queue; None when nothing is left.
    """

    label: int
    queue_id: int
    told: bool
    next: Work | None


def store_and_take_next(
    tx: sa.Connection, user: User, key: str, choice: Choice | None, note: str = ""
) -> StoredAnswer:
    """Store an answer as `store_answer` does and lease the next item of its queue, in one transaction.

    Raises:
        Gone: this user was never handed an item under this key, or may no longer work in its queue.
        DataError: the choice does not answer the item.
    """
    row = _lease_of(tx, user, key)
    if not is_open_to(user, row):
        raise Gone("there is no such queue for you")
    label = _store(tx, user, row, choice, note, row.kind)
    told, queue = row.role == "onboarding", row.queue_id
    if told:
        return StoredAnswer(label, queue, told, None)
    # Where a form was sent again, or several items were in hand, the next one may be held already.
    may_hold = row.holds_more or row.state == "done"
    following = held(tx, user, queue) if may_hold else None
    following = following or take(tx, user, queue, row.kind, row.lease_seconds)
    return StoredAnswer(label, queue, told, following)


def store_answer(
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
        tx: a transaction that writes.
        user: who answers.
        key: of the lease.
        choice: what was chosen; None to skip.
        note: a remark; the reason of a skip.
        kind: what was answered, where the queue leaves it open (answers of the served model).

    Raises:
        Gone: this user was never handed an item under this key.
        DataError: the choice does not answer the item.
    """
    row = _lease_of(tx, user, key)
    return _store(tx, user, row, choice, note, kind or row.kind)


def _store(
    tx: sa.Connection, user: User, lease_row: sa.Row[Any], choice: Choice | None, note: str, kind: str
) -> int:
    note = clean(note, "the note", 2000, empty=True).strip()
    if lease_row.state == "done":
        return tx.scalars(sa.select(labels.c.id).where(labels.c.key == lease_row.key)).one()
    answer: dict[str, Any] | None = None
    strength = None
    if choice is not None:
        answer, strength = understand(kind, choice, lease_row.shown_order, lease_row.outputs)
    elif not note:
        raise DataError("say why you skip it")
    values = {
        "item_id": lease_row.item_id,
        "queue_id": lease_row.queue_id,
        "user_id": user.id,
        "revision": (lease_row.revision or 0) + 1,
        "supersedes": lease_row.last_label,
        "key": lease_row.key,
        "kind": kind,
        "status": "given" if choice is not None else "skipped",
        "answer": answer,
        "strength": strength,
        "seconds": round(time.time() - lease_row.taken, 3),
        "shown_order": lease_row.shown_order,
        "labeler_group": user.group,
        "guideline_version": lease_row.guideline_version,
        "content_hash": lease_row.content_hash,
        "note": note,
        "correct": _correct(tx, user, lease_row, answer),
        "created": time.time(),
    }
    [stored] = _STORE(tx, **values)
    _DONE(tx, lease=lease_row.id)
    change = (choice is not None) - (lease_row.state == "open")  # an open lease was counted already
    if change:
        count_taken(tx, lease_row.item_id, change)
    return stored.id


def _correct(
    tx: sa.Connection, user: User, lease_row: sa.Row[Any], answer: dict[str, Any] | None
) -> float | None:
    """How right an answer is, 0 to 1: against the known answer, or for a repeat against the person's own
    first one; None where there is nothing to hold it against."""
    expected = lease_row.expected
    if lease_row.repeat_of is not None:
        first = sa.select(labels.c.answer).where(
            labels.c.item_id == lease_row.repeat_of, labels.c.user_id == user.id, is_current()
        )
        expected = tx.scalar(first)
    return agreement(expected, answer) if expected and answer else None


def undo(tx: sa.Connection, user: User, label: int) -> int:
    """Take a label back: a superseding row says so, and the item is in the user's hands again, in the same
    order. Returns its queue. Undoing a label again changes nothing.

    Raises:
        Gone: not a label of this user.
        DataError: a newer label of the same item superseded it.
    """
    row = tx.execute(sa.select(labels).where(labels.c.id == label, labels.c.user_id == user.id)).first()
    if row is None:
        raise Gone("there is no such label of yours")
    queue = queue_by_id(tx, row.queue_id)
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
    lease(tx, row.item_id, queue.id, user.id, row.shown_order, queue.lease_seconds)
    if row.status == "skipped":
        count_taken(tx, row.item_id, 1)
    return row.queue_id


def flag(tx: sa.Connection, user: User, key: str, note: str) -> int:
    """Flag the item of a lease for the operators, with a note; returns its queue.

    Raises:
        Gone: this user was never handed an item under this key.
    """
    note = clean(note, "the note", 2000).strip()
    row = _lease_of(tx, user, key)
    tx.execute(flags.insert().values(item_id=row.item_id, user_id=user.id, note=note, created=time.time()))
    record(tx, user.name, "flag item", item=row.item_id)
    return row.queue_id
