"""Projects, guidelines, queues, and the items that fill them.

Items come from files of candidate outputs: the comparisons that the stage `collect` writes, or any JSONL,
JSON, CSV or Parquet with the columns of `CANDIDATE`. Which of them become items is drawn at random or by how
much earlier labelers or reward models disagree; the chance each one had is kept as its propensity.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from labeling.answers import check_expected
from labeling.schema import items
from labeling.store import clean, content_hash, record
from rlhf.data.contracts import COMPARISON, Contract
from rlhf.data.errors import DataError
from rlhf.data.readers import read_rows

EVERYBODY = 1_000_000  # labels wanted of gold and onboarding items: one of every labeler
FLOOR = 0.1  # added to every disagreement, so that each item has a chance
REPEAT_GAP = 0.1  # how much later, as a share of the batch, a repeat is handed out
MOST_OUTPUTS = 9  # digits on a keyboard
SAMPLINGS = ("all", "random", "disagreement")

CANDIDATE = Contract(
    "candidate row",
    pa.schema(
        [
            *COMPARISON.schema,
            ("output", pa.string()),  # one output in place of `completions`
            ("policy", pa.string()),
            ("reference", pa.string()),
            ("scores", pa.list_(pa.list_(pa.float64()))),  # one list a scorer, one number an output
            ("expected", pa.string()),  # JSON: the known answer of gold and onboarding items
            ("explanation", pa.string()),
        ]
    ),
    ("prompt", "completions"),
    ("prompt",),
)


@dataclass(frozen=True)
class Candidate:
    """What may become an item. `scores[m][k]` is scorer m's liking of output k."""

    prompt: str
    outputs: tuple[str, ...]
    policies: tuple[str, ...]
    reference: str | None = None
    split: str | None = None
    source: str = ""
    scores: tuple[tuple[float, ...], ...] = ()
    expected: dict[str, Any] | None = None
    explanation: str | None = None


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


def read_candidates(path: Path | str, source: str | None = None) -> list[Candidate]:
    """Candidates of a file; rows with the same prompt and outputs become one, their rankings its scorers.

    Raises:
        DataError: the file or a row cannot be used.
    """
    found: dict[tuple[str, tuple[str, ...]], Candidate] = {}
    for number, row in enumerate(read_rows(path, CANDIDATE), start=1):
        try:
            one = _candidate(row, source or Path(path).name)
        except DataError as error:
            raise DataError(f"{path}: row {number}: {error}") from None
        before = found.get((one.prompt, one.outputs))
        found[one.prompt, one.outputs] = replace(one, scores=before.scores + one.scores) if before else one
    return list(found.values())


def _candidate(row: dict[str, Any], source: str) -> Candidate:
    outputs = row.get("completions") or ([row["output"]] if row.get("output") is not None else [])
    if not outputs:
        raise DataError("it has neither 'completions' nor 'output'")
    if len(outputs) > MOST_OUTPUTS:
        raise DataError(f"it has {len(outputs)} outputs; at most {MOST_OUTPUTS} can be shown")
    texts = tuple(clean(text or "", "an output").strip() for text in outputs)
    if len(set(texts)) < len(texts):
        raise DataError("two of its outputs are the same text")
    policies = row.get("policies") or ([row["policy"]] if row.get("policy") else [""] * len(texts))
    if len(policies) != len(texts):
        raise DataError(f"{len(texts)} outputs but {len(policies)} policies")
    reference = row.get("reference")
    if reference is None and "reference" in policies:
        reference = texts[policies.index("reference")]
    scores = [tuple(line) for line in row.get("scores") or ()]
    if row.get("ranking") and None not in row["ranking"]:
        scores.append(tuple(-rank for rank in row["ranking"]))
    if any(len(line) != len(texts) for line in scores):
        raise DataError("scores and rankings need one number an output")
    expected = None
    if row.get("expected"):
        try:
            expected = json.loads(row["expected"])
        except json.JSONDecodeError:
            raise DataError("'expected' is not JSON") from None
    return Candidate(
        clean(row["prompt"] or "", "the prompt"),
        texts,
        tuple(policy or "" for policy in policies),
        None if reference is None else clean(reference, "the reference").strip(),
        row.get("split"),
        clean(row.get("source") or source, "the source", 200),
        tuple(scores),
        expected,
        row.get("explanation"),
    )


def units(kind: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates as items of one kind: pairs to compare, whole rows to rank, else one output each.

    Raises:
        DataError: nothing of this kind can be made of them.
    """
    made: list[Candidate] = []
    for one in candidates:
        if kind == "rank":
            shown = [tuple(range(len(one.outputs)))] if len(one.outputs) > 1 else []
        elif kind == "compare":
            shown = list(combinations(range(len(one.outputs)), 2))
        else:
            shown = [(k,) for k in range(len(one.outputs))]
            if kind == "judge":
                shown = [k for k in shown if one.reference and one.outputs[k[0]] != one.reference]
        for chosen in shown:
            made.append(
                replace(
                    one,
                    outputs=tuple(one.outputs[k] for k in chosen),
                    policies=tuple(one.policies[k] for k in chosen),
                    scores=tuple(tuple(line[k] for k in chosen) for line in one.scores),
                    reference=one.reference if kind in ("judge", "edit") else None,
                )
            )
    if not made:
        needs = {"judge": "a reference and another output", "compare": "two outputs", "rank": "two outputs"}
        raise DataError(f"no item to {kind}: a row needs a prompt and {needs.get(kind, 'an output')}")
    return made


def disagreement(scores: Sequence[Sequence[float]]) -> float | None:
    """How much scorers disagree on the order of outputs, 0 to 1; None with fewer than two scorers.

    Mean over pairs of 4 p (1 - p), p the share of scorers who prefer the first (a tie is half).
    """
    if len(scores) < 2 or len(scores[0]) < 2:
        return None
    found = []
    for i, j in combinations(range(len(scores[0])), 2):
        p = sum((s[i] > s[j]) + 0.5 * (s[i] == s[j]) for s in scores) / len(scores)
        found.append(4 * p * (1 - p))
    return sum(found) / len(found)


def draw(weights: Sequence[float], number: int, rng: random.Random) -> list[tuple[int, float]]:
    """`number` indices drawn without replacement, with the chance each had: systematic sampling with
    probability proportional to weight (Madow 1949), in random order, so that the chances are exact.
    """
    number = min(number, len(weights))
    certain: set[int] = set()  # those whose share would pass 1
    while True:
        rest = sum(w for i, w in enumerate(weights) if i not in certain)
        left = number - len(certain)
        over = {i for i, w in enumerate(weights) if i not in certain and left * w >= rest * (1 - 1e-12)}
        if not over or left == 0:
            break
        certain |= over
    chosen = [(i, 1.0) for i in sorted(certain)]
    others = [i for i in range(len(weights)) if i not in certain]
    rng.shuffle(others)
    passed, mark = 0.0, rng.random()
    for i in others if left else []:
        chance = left * weights[i] / rest
        passed += chance
        if passed > mark:
            chosen.append((i, chance))
            mark += 1
    return chosen


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
        drawn = draw(_weights(possible, filling.sampling), filling.number or 0, rng)
    last = tx.scalar(sa.select(sa.func.max(items.c.position)).where(items.c.queue_id == queue.id))
    base = math.floor(last) + 1 if last is not None and last >= 0 else 0
    held = set(
        tx.execute(sa.select(items.c.content_hash, items.c.role).where(items.c.queue_id == queue.id)).tuples()
    )
    known = {digest for digest, role in held if role in ("work", "shared")}
    rows: list[dict[str, Any]] = []
    for number, (index, chance) in enumerate(drawn):
        one = possible[index]
        digest = content_hash(one.prompt, list(one.outputs), one.reference)
        role, target = filling.role, queue.overlap
        position = base + rng.random()
        if filling.role == "work":
            if digest in known:
                continue
            known.add(digest)
            if rng.random() < filling.shared:
                role, target = "shared", filling.shared_overlap
        else:
            if (digest, role) in held:
                continue
            held.add((digest, role))
            check_expected(queue.kind, one.expected, len(one.outputs))
            target = EVERYBODY
            # onboarding comes before all else; gold anywhere among the items that are there
            position = -1 + number / len(drawn) if role == "onboarding" else rng.random() * max(1, base)
        rows.append(item_values(queue.id, one, role, position, target, digest, filling.sampling, chance))
    if rows:
        tx.execute(items.insert(), rows)
    repeated = [row for row in rows if filling.role == "work" and rng.random() < filling.repeats]
    if repeated:
        _add_repeats(tx, queue.id, repeated)
    if rows and tx.dialect.name == "postgresql":
        # by itself it does so a minute later, and until then plans as for an empty table
        tx.execute(sa.text("ANALYZE items"))
    record(
        tx, who, "add items", queue=queue.id, role=filling.role, sampling=filling.sampling, number=len(rows)
    )
    return len(rows)


def _weights(possible: Sequence[Candidate], sampling: str) -> list[float]:
    if sampling == "random":
        return [1.0] * len(possible)
    found = [disagreement(one.scores) for one in possible]
    if all(value is None for value in found):
        raise DataError(
            "sampling by disagreement needs pairs or rankings with two opinions or more: several rankings of "
            "the same outputs, or a column 'scores' with one list a reward model"
        )
    return [FLOOR + (value or 0.0) for value in found]


def item_values(
    queue: int,
    one: Candidate,
    role: str,
    position: float,
    target: int,
    digest: str,
    sampling: str,
    chance: float,
) -> dict[str, Any]:
    """The row of an item."""
    return {
        "queue_id": queue,
        "role": role,
        "position": position,
        "prompt": one.prompt,
        "outputs": list(one.outputs),
        "policies": list(one.policies),
        "reference": one.reference,
        "split": one.split,
        "source": one.source,
        "content_hash": digest,
        "expected": one.expected if role in ("gold", "onboarding") else None,
        "explanation": one.explanation,
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
