"""Filling queues: candidates become items, each with its role, its place and the labels it wants.

The chance with which an item was drawn is kept as its propensity.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from labeling.answers import check_expected
from labeling.candidates import Candidate, units
from labeling.rows import content_hash, record
from labeling.sampling import SAMPLINGS, draw, weights
from labeling.schema import items
from rlhf.data.errors import DataError

EVERYBODY = 1_000_000  # labels wanted of a gold or onboarding item, so that every labeler gets it
REPEAT_GAP = 0.1  # how much later, as a share of the batch, a repeat is handed out


@dataclass(frozen=True)
class Filling:
    """How candidates become items of a queue.

    Attributes:
        role: `work`, `gold` or `onboarding`.
        sampling: `all`, `random` or `disagreement`.
        number: items to draw; None with `all`.
        shared: share of the items that `shared_overlap` people label.
        repeats: share of the items that come back, hidden, to those who labeled them.
        seed: of the drawing.
    """

    role: str = "work"
    sampling: str = "all"
    number: int | None = None
    shared: float = 0.0
    shared_overlap: int = 3
    repeats: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.role not in ("work", "gold", "onboarding"):
            raise DataError(f"unknown role {self.role!r}; it is work, gold or onboarding")
        if self.sampling not in SAMPLINGS:
            raise DataError(f"unknown sampling {self.sampling!r}; it is one of {', '.join(SAMPLINGS)}")
        if self.sampling != "all" and (self.number is None or self.number < 1):
            raise DataError(f"sampling {self.sampling!r} needs the number of items to draw")
        if not (0 <= self.shared <= 1 and 0 <= self.repeats <= 1):
            raise DataError("the shares of the shared pool and of repeats lie between 0 and 1")
        if not 1 <= self.shared_overlap <= 1000:
            raise DataError("the overlap of the shared pool lies between 1 and 1000")


def add_items(
    tx: sa.Connection, queue: sa.Row[Any], candidates: Sequence[Candidate], filling: Filling, who: str
) -> int:
    """Add items to a queue; those that it holds already are left out. Returns how many are new.

    Raises:
        DataError: no item of the queue's kind can be made, or an expected answer is missing or wrong.
    """
    possible = units(queue.kind, candidates)
    rng = random.Random(filling.seed)
    if filling.sampling == "all":
        drawn = [(i, 1.0) for i in range(len(possible))]
    else:
        drawn = draw(weights(possible, filling.sampling), filling.number or 0, rng)
    last = tx.scalar(sa.select(sa.func.max(items.c.position)).where(items.c.queue_id == queue.id))
    base = math.floor(last) + 1 if last is not None and last >= 0 else 0
    held = set(
        tx.execute(sa.select(items.c.content_hash, items.c.role).where(items.c.queue_id == queue.id)).tuples()
    )
    labeled_hashes = {digest for digest, role in held if role in ("work", "shared")}
    rows: list[dict[str, Any]] = []
    for number, (index, chance) in enumerate(drawn):
        candidate = possible[index]
        outputs, messages = list(candidate.outputs), candidate.messages
        digest = content_hash(candidate.prompt, outputs, candidate.reference, messages)
        role, target = filling.role, queue.overlap
        position = base + rng.random()
        if filling.role == "work":
            if digest in labeled_hashes:
                continue
            labeled_hashes.add(digest)
            if rng.random() < filling.shared:
                role, target = "shared", filling.shared_overlap
        else:
            if (digest, role) in held:
                continue
            held.add((digest, role))
            check_expected(queue.kind, candidate.expected, len(candidate.outputs))
            target = EVERYBODY
            # Onboarding comes before all else, gold anywhere among the items that are there.
            position = -1 + number / len(drawn) if role == "onboarding" else rng.random() * max(1, base)
        rows.append(
            item_values(queue.id, candidate, role, position, target, digest, filling.sampling, chance)
        )
    if rows:
        tx.execute(items.insert(), rows)
    repeated = [row for row in rows if filling.role == "work" and rng.random() < filling.repeats]
    if repeated:
        _add_repeats(tx, queue.id, repeated)
    if rows and tx.dialect.name == "postgresql":
        # PostgreSQL does so by itself a minute later, and until then plans as for an empty table.
        tx.execute(sa.text("ANALYZE items"))
    record(
        tx, who, "add items", queue=queue.id, role=filling.role, sampling=filling.sampling, number=len(rows)
    )
    return len(rows)


def item_values(
    queue: int,
    candidate: Candidate,
    role: str,
    position: float,
    target: int,
    digest: str,
    sampling: str,
    chance: float,
) -> dict[str, Any]:
    """The row of an item that nobody has labeled yet."""
    return {
        "queue_id": queue,
        "role": role,
        "position": position,
        "prompt": candidate.prompt,
        "messages": candidate.messages,
        "outputs": list(candidate.outputs),
        "policies": list(candidate.policies),
        "reference": candidate.reference,
        "split": candidate.split,
        "source": candidate.source,
        "content_hash": digest,
        "expected": candidate.expected if role in ("gold", "onboarding") else None,
        "explanation": candidate.explanation,
        "repeat_of": None,
        "sampling": sampling,
        "propensity": chance,
        "target": target,
        "taken": 0,
        "created": time.time(),
    }


def _add_repeats(tx: sa.Connection, queue: int, rows: list[dict[str, Any]]) -> None:
    """The same items again, later; they are handed only to those who labeled the first."""
    first = dict(
        tx.execute(
            sa.select(items.c.content_hash, items.c.id).where(
                items.c.queue_id == queue, items.c.role.in_(("work", "shared"))
            )
        )
        .tuples()
        .all()
    )
    tx.execute(
        items.insert(),
        [
            row
            | {
                "role": "repeat",
                "position": row["position"] + REPEAT_GAP,
                "repeat_of": first[row["content_hash"]],
            }
            for row in rows
        ],
    )
