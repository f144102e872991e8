"""Storing imported labels: they become labels like any other, of users who cannot sign in, in a closed queue
named after the file. The same file again adds nothing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from labeling.imports.label import ImportedLabel
from labeling.people import add_user
from labeling.projects import project_id
from labeling.queues import add_queue
from labeling.rows import clean, clean_prompt, content_hash, dumps, insert, record
from labeling.schema import items, labels, queues, users
from rlhf.data.errors import DataError
from rlhf.data.plural import plural


def store_labels(
    tx: sa.Connection,
    project: str,
    imported: Sequence[ImportedLabel],
    source: str,
    who: str,
    notes: list[str] | None = None,
) -> dict[str, int]:
    """Store the labels of a file in a project; returns how many of each kind are new.

    Args:
        tx: a transaction that writes.
        project: its name.
        imported: the labels.
        source: the name of the file.
        who: whoever imports them, for the audit log.
        notes: gets a line where labels of the file are replaced by later ones of it.

    Raises:
        DataError: no such project, or a label that cannot be stored.
    """
    kinds = sorted({label.kind for label in imported})
    queue_of = _queues(tx, project_id(tx, project), source, kinds, who)
    counts = dict.fromkeys(kinds, 0)
    user_of: dict[str, int] = dict(tx.execute(sa.select(users.c.name, users.c.id)).tuples().all())
    item_of, known_keys, newest_of = _stored(tx, queue_of.values())
    stored_here: set[tuple[int, int]] = set()
    replaced = 0
    for place, label in enumerate(imported):
        try:
            prompt, messages = clean_prompt(label.prompt, label.messages)
            # As they are, not as `clean_output` makes them: the first indent of a program is part of it.
            outputs = [clean(text, "an output") for text in label.outputs]
            if "text" in label.answer:
                clean(label.answer["text"], "the edited text")
        except DataError as error:
            raise DataError(f"label {place + 1}: {error}") from None
        queue = queue_of[label.kind]
        digest = content_hash(prompt, outputs, label.reference, messages)
        key = hashlib.sha256(dumps([queue, digest, label.labeler, label.answer]).encode()).hexdigest()
        if key in known_keys:
            continue
        known_keys.add(key)
        if (queue, digest) not in item_of:
            shown = {"prompt": prompt, "messages": messages, "outputs": outputs, "content_hash": digest}
            item_of[queue, digest] = _add_item(tx, queue, label, shown, source, place)
        item = item_of[queue, digest]
        if label.labeler not in user_of:
            user_of[label.labeler] = add_user(tx, label.labeler, None, "labeler", label.group, who)
        user = user_of[label.labeler]
        replaced += (item, user) in stored_here
        stored_here.add((item, user))
        superseded, revision = newest_of.get((item, user), (None, 0))
        values = {
            "item_id": item,
            "queue_id": queue,
            "user_id": user,
            "revision": revision + 1,
            "supersedes": superseded,
            "key": key,
            "kind": label.kind,
            "status": "given",
            "answer": label.answer,
            "strength": label.strength,
            "seconds": label.seconds,
            "shown_order": list(label.shown_order or ()),
            "labeler_group": label.group,
            "guideline_version": label.guideline_version,
            "content_hash": digest,
            "note": label.note,
            "correct": None,
            "created": time.time(),
        }
        newest_of[item, user] = insert(tx, labels, values), revision + 1
        counts[label.kind] += 1
    if replaced and notes is not None:
        told = plural(replaced, "label", "replace")
        notes.append(f"{told} what the same person said earlier about the same outputs")
    record(tx, who, "import labels", project=project, source=source, new=counts)
    return counts


def _queues(tx: sa.Connection, project: int, source: str, kinds: Iterable[str], who: str) -> dict[str, int]:
    """The queue of each kind of label of a file, made and closed where it is new."""
    numbers = {}
    for kind in kinds:
        name = clean(f"{source} ({kind})", "the queue's name", 60)
        number = tx.scalar(
            sa.select(queues.c.id).where(queues.c.project_id == project, queues.c.name == name)
        )
        if number is None:
            number = add_queue(tx, project, name, kind, who)
            tx.execute(queues.update().where(queues.c.id == number).values(active=False))
        numbers[kind] = number
    return numbers


def _stored(
    tx: sa.Connection, queue_ids: Iterable[int]
) -> tuple[dict[tuple[int, str], int], set[str], dict[tuple[int, int], tuple[int | None, int]]]:
    """What these queues hold already: items by (queue, hash of the content), keys of labels, and the newest
    label by (item, user) with its revision."""
    numbers = list(queue_ids)
    chosen_items = sa.select(items.c.queue_id, items.c.content_hash, items.c.id).where(
        items.c.queue_id.in_(numbers)
    )
    chosen_labels = (
        sa.select(labels.c.item_id, labels.c.user_id, labels.c.id, labels.c.revision, labels.c.key)
        .where(labels.c.queue_id.in_(numbers))
        .order_by(labels.c.revision)
    )
    item_of = {(row.queue_id, row.content_hash): row.id for row in tx.execute(chosen_items)}
    rows = tx.execute(chosen_labels).all()
    newest_of = {(row.item_id, row.user_id): (row.id, row.revision) for row in rows}
    return item_of, {row.key for row in rows}, newest_of


def _add_item(
    tx: sa.Connection,
    queue: int,
    label: ImportedLabel,
    shown: dict[str, Any],
    source: str,
    place: int,
) -> int:
    """The item that an imported label is about, which wants no more labels; `shown` is its content."""
    values = shown | {
        "queue_id": queue,
        "role": "work",
        "position": float(place),
        "policies": list(label.policies) or [""] * len(shown["outputs"]),
        "reference": label.reference,
        "split": label.split,
        "source": clean(label.source or source, "the source", 200),
        "sampling": "all",
        "propensity": 1.0,
        "target": 0,
        "taken": 0,
        "created": time.time(),
    }
    return insert(tx, items, values)
