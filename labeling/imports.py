"""Labels in: from files of the data contracts, from Argilla, Label Studio and the QA-feedback data.

Shapes, recognised by their fields:

    contract      comparisons, demonstrations or judgments (`rlhf.data.contracts`) as JSONL, CSV, Parquet
    argilla       `dataset.records.to_json(...)`: fields, and responses by question
    label-studio  the JSON export: tasks with data and annotations
    qa-feedback   `dev_feedback.json` of FineGrainedRLHF (Wu et al. 2023)

Every shape becomes labels like any other, of users who cannot sign in, in a closed queue named after the
file. The same file again adds nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from labeling.people import add_user
from labeling.projects import add_queue, project_id
from labeling.schema import items, labels, queues, users
from labeling.store import clean, content_hash, dumps, insert, record
from rlhf.data.contracts import COMPARISON, DEMONSTRATION, JUDGMENT, Contract
from rlhf.data.errors import DataError
from rlhf.data.qa_feedback import GROUP, LABELER, OUTPUTS, PAIRS, broken_ties, question_of, ranking_of_pairs
from rlhf.data.rankings import dense_ranks
from rlhf.data.readers import read_rows
from rlhf.data.text_files import read_text

PROMPT_FIELDS = ("prompt", "instruction", "question", "context", "input", "text")
TIES = ("tie", "equal", "same", "both", "neither", "draw")


@dataclass(frozen=True)
class Given:
    """One label of a file. `answer` is as `labeling.answers` stores it."""

    kind: str
    prompt: str
    outputs: tuple[str, ...]
    answer: dict[str, Any]
    labeler: str
    group: str = "imported"
    policies: tuple[str, ...] = ()
    reference: str | None = None
    strength: int | None = None
    seconds: float | None = None
    shown_order: tuple[int, ...] | None = None
    guideline_version: str | None = None
    split: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Fields:
    """Which fields of a record are the prompt and the outputs; by their names and order where not said."""

    prompt: str | None = None
    outputs: tuple[str, ...] = ()

    def texts(self, record: dict[str, Any]) -> tuple[str, dict[str, str]]:
        """The prompt, and the outputs by field name."""
        texts = {name: value for name, value in record.items() if isinstance(value, str)}
        prompt = self.prompt or next((name for name in PROMPT_FIELDS if name in texts), None)
        if prompt is None or prompt not in texts:
            raise DataError(f"no field for the prompt among {', '.join(record)}; say --prompt-field")
        missing = [name for name in self.outputs if name not in texts]
        if missing:
            raise DataError(f"no text field {missing[0]!r} among {', '.join(record)}")
        chosen = self.outputs or tuple(name for name in texts if name != prompt)
        return texts[prompt], {name: texts[name] for name in chosen}


def read_labels(
    path: Path | str, fields: Fields | None = None, notes: list[str] | None = None
) -> list[Given]:
    """The labels of a file, whatever its shape.

    Args:
        path: the file.
        fields: which fields of a record are the prompt and the outputs.
        notes: gets lines for a person to see, such as how rankings were read.

    Raises:
        DataError: the file cannot be read, its shape is unknown, or a row cannot be used.
    """
    path, fields = Path(path), fields or Fields()
    if path.suffix not in (".json", ".jsonl"):
        return _contract_file(path, contract_of(_columns(path)), notes)
    records = _records(path)
    first = records[0] if records and isinstance(records[0], dict) else {}
    readers: list[tuple[set[str], Callable[[dict[str, Any]], Iterable[Given]]]] = [
        ({"passages", "preference", "feedback"}, qa_feedback),
        ({"fields", "responses"}, lambda one: argilla(one, fields)),
        ({"data", "annotations"}, lambda one: label_studio(one, fields)),
    ]
    for wanted, reader in readers:
        if wanted <= set(first):
            found: list[Given] = []
            for number, one in enumerate(records, start=1):
                try:
                    if not isinstance(one, dict):
                        raise DataError("not an object")
                    found += reader(one)
                except DataError as error:
                    raise DataError(f"{path}: record {number}: {error}") from None
                except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
                    raise DataError(
                        f"{path}: record {number}: not of the expected shape: {error!r}"
                    ) from None
            return found
    return _contract_file(path, contract_of(set(first)), notes)


def _records(path: Path) -> list[Any]:
    if not path.exists():
        raise DataError(f"{path}: no such file")
    text = read_text(path)
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not valid JSON ({error.msg} at line {error.lineno}); is it cut off?"
        ) from None
    if not isinstance(found, list) or not found:
        raise DataError(f"{path}: expected a list of records with at least one")
    return found


def _columns(path: Path) -> set[str]:
    """Column names of a CSV or Parquet file."""
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return set(pq.read_schema(path).names)
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: not a Parquet file: {error}") from None
    if path.suffix != ".csv":
        raise DataError(f"{path}: unknown file type {path.suffix!r}; use .jsonl, .json, .csv or .parquet")
    return set(read_text(path).split("\n", 1)[0].strip().split(","))


def contract_of(columns: set[str]) -> Contract:
    """Which contract a file's columns are.

    Raises:
        DataError: none of them.
    """
    for contract in (COMPARISON, DEMONSTRATION, JUDGMENT):
        if set(contract.required) <= columns:
            return contract
    raise DataError(
        f"columns {', '.join(sorted(columns)) or '(none)'}: not comparisons (prompt, completions, ranking), "
        "demonstrations (prompt, completion), judgments (prompt, reference, output, policy, preferred), nor "
        "an export of Argilla or Label Studio"
    )


def _contract_file(path: Path, contract: Contract, notes: list[str] | None) -> list[Given]:
    found = []
    for number, row in enumerate(read_rows(path, contract, notes), start=1):
        try:
            found.append(_of_contract(contract, row))
        except DataError as error:
            raise DataError(f"{path}: row {number}: {error}") from None
    return found


def _of_contract(contract: Contract, row: dict[str, Any]) -> Given:
    if contract is DEMONSTRATION:
        return Given(
            "edit",
            row["prompt"],
            (),
            {"text": row["completion"]},
            row.get("writer_id") or "unknown",
            split=row.get("split"),
        )
    if contract is JUDGMENT:
        if row["preferred"] not in ("output", "reference", "tie"):
            raise DataError(f"preferred is {row['preferred']!r}; it is output, reference or tie")
        return Given(
            "judge",
            row["prompt"],
            (row["output"],),
            {"preferred": row["preferred"]},
            row.get("judge_id") or "unknown",
            group=row.get("judge_kind") or "imported",
            policies=(row["policy"] or "",),
            reference=row["reference"],
            shown_order=tuple(row["shown_order"]) if row.get("shown_order") else None,
            split=row.get("split"),
        )
    outputs, ranking = row["completions"] or [], row["ranking"] or []
    if len(outputs) != len(ranking) or len(outputs) < 2:
        raise DataError(
            f"{len(outputs)} completions and {len(ranking)} ranks; it needs two or more, one rank each"
        )
    if len(ranking) - ranking.count(None) < 2:
        raise DataError(f"ranking {ranking} says nothing: it needs the ranks of two completions or more")
    return Given(
        "compare" if len(outputs) == 2 else "rank",
        row["prompt"],
        tuple(outputs),
        {"ranking": ranking} | ({"both_bad": False} if len(outputs) == 2 else {}),
        row.get("labeler_id") or "unknown",
        group=row.get("labeler_group") or "imported",
        policies=tuple(row.get("policies") or ()),
        strength=row.get("strength"),
        seconds=row.get("seconds"),
        shown_order=tuple(row["shown_order"]) if row.get("shown_order") else None,
        guideline_version=row.get("guideline_version"),
        split=row.get("split"),
    )


def argilla(one: dict[str, Any], fields: Fields) -> Iterator[Given]:
    """Labels of an Argilla record: a label question names an output field (or a tie), a ranking question
    orders output fields, a text question edits the first output; other questions are passed over."""
    prompt, outputs = fields.texts(one["fields"])
    names = list(outputs)
    for answers in one["responses"].values():
        for response in answers:
            value, labeler = response["value"], f"argilla-{response['user_id']}"
            common: dict[str, Any] = {"prompt": prompt, "labeler": labeler}
            if isinstance(value, str) and (value in names or value.lower() in TIES) and len(names) == 2:
                ranking = [1, 1] if value not in names else [1 if name == value else 2 for name in names]
                yield Given(
                    kind="compare",
                    outputs=tuple(outputs.values()),
                    policies=tuple(names),
                    answer={"ranking": ranking, "both_bad": value.lower() == "neither"},
                    **common,
                )
            elif isinstance(value, list) and value:
                ranks = {
                    entry["value"] if isinstance(entry, dict) else entry: (
                        entry["rank"] if isinstance(entry, dict) else place
                    )
                    for place, entry in enumerate(value, start=1)
                }
                if set(ranks) <= set(names) and len(ranks) > 1:
                    yield Given(
                        kind="rank",
                        outputs=tuple(outputs.values()),
                        policies=tuple(names),
                        answer={"ranking": dense_ranks([ranks.get(name) for name in names])},
                        **common,
                    )
            elif isinstance(value, str) and names and len(value.split()) > 1:
                yield Given(
                    kind="edit",
                    outputs=(outputs[names[0]],),
                    policies=(names[0],),
                    answer={"text": value},
                    **common,
                )


def label_studio(task: dict[str, Any], fields: Fields) -> Iterator[Given]:
    """Labels of a Label Studio task: Pairwise (left is the first output field), Ranker over a list of items
    with ids, and TextArea as an edit of the first output. Cancelled annotations are skips and passed over."""
    data = task["data"]
    for annotation in task["annotations"]:
        if annotation.get("was_cancelled"):
            continue
        by = annotation.get("completed_by")
        by = by.get("email") or by.get("id") if isinstance(by, dict) else by
        common: dict[str, Any] = {"labeler": f"label-studio-{by}", "seconds": annotation.get("lead_time")}
        for result in annotation["result"]:
            kind, value = result.get("type"), result.get("value", {})
            if kind == "ranker":
                listed = next(v for v in data.values() if isinstance(v, list))
                texts = {str(entry["id"]): _text_of(entry) for entry in listed}
                ranked = next(iter(value["ranker"].values()))
                if not isinstance(ranked, list):
                    raise DataError(f"a ranker's result is a list of items, not {ranked!r}")
                order = [str(key) for key in ranked]
                prompt, _ = fields.texts(data)
                ranks = dense_ranks([order.index(key) if key in order else None for key in texts])
                yield Given(
                    kind="rank",
                    prompt=prompt,
                    outputs=tuple(texts.values()),
                    policies=tuple(texts),
                    answer={"ranking": ranks},
                    **common,
                )
                continue
            prompt, outputs = fields.texts(data)
            names = list(outputs)
            if kind == "pairwise" and value.get("selected") in ("left", "right") and len(names) >= 2:
                left = value["selected"] == "left"
                yield Given(
                    kind="compare",
                    prompt=prompt,
                    outputs=(outputs[names[0]], outputs[names[1]]),
                    policies=(names[0], names[1]),
                    answer={"ranking": [1, 2] if left else [2, 1], "both_bad": False},
                    shown_order=(0, 1),
                    **common,
                )
            elif kind == "textarea" and names:
                text = value["text"]
                yield Given(
                    kind="edit",
                    prompt=prompt,
                    outputs=(outputs[names[0]],),
                    policies=(names[0],),
                    answer={"text": "\n".join(text) if isinstance(text, list) else text},
                    **common,
                )


def _text_of(entry: dict[str, Any]) -> str:
    return entry.get("body") or entry.get("text") or entry.get("html") or entry["title"]


def qa_feedback(item: dict[str, Any]) -> Iterator[Given]:
    """Labels of a question of `dev_feedback.json`: the six preferences of its four outputs, and the edit.

    The preferences become one ranking with ties where one says exactly what they say. Otherwise (a tie that
    the other pairs break, or a circle) they stay six comparisons, so that no tie and no preference is lost.
    """
    question = question_of(item)
    outputs = tuple(text.strip() for text in question.outputs)
    common: dict[str, Any] = {"prompt": question.prompt, "labeler": LABELER, "group": GROUP}
    try:
        ranking = ranking_of_pairs(question.preferences)
        exact = broken_ties(question.preferences, ranking) == 0
    except DataError:
        exact = False
    if exact:
        yield Given(kind="rank", outputs=outputs, policies=OUTPUTS, answer={"ranking": ranking}, **common)
    else:
        for (i, j), preferred in zip(PAIRS, question.preferences, strict=True):
            yield Given(
                kind="compare",
                outputs=(outputs[i], outputs[j]),
                policies=(OUTPUTS[i], OUTPUTS[j]),
                answer={"ranking": _OF_PAIR[preferred], "both_bad": False},
                **common,
            )
    edit = question.edit.strip()
    if edit:
        yield Given(kind="edit", outputs=outputs[:1], policies=OUTPUTS[:1], answer={"text": edit}, **common)


_OF_PAIR = {0: [1, 1], 1: [1, 2], 2: [2, 1]}


def import_labels(
    tx: sa.Connection, project: str, given: Sequence[Given], source: str, who: str
) -> dict[str, int]:
    """Store labels of a file in a project; returns how many of each kind are new.

    Raises:
        DataError: no such project, or a label that cannot be stored.
    """
    number = project_id(tx, project)
    people, queue_ids, counts = _people(tx), {}, dict.fromkeys(sorted({one.kind for one in given}), 0)
    for kind in counts:
        name = clean(f"{source} ({kind})", "the queue's name", 60)
        found = tx.scalar(sa.select(queues.c.id).where(queues.c.project_id == number, queues.c.name == name))
        if found is None:
            found = add_queue(tx, number, name, kind, who)
            tx.execute(queues.update().where(queues.c.id == found).values(active=False))
        queue_ids[kind] = found
    held = {
        (row.queue_id, row.content_hash): row.id
        for row in tx.execute(
            sa.select(items.c.queue_id, items.c.content_hash, items.c.id).where(
                items.c.queue_id.in_(queue_ids.values())
            )
        )
    }
    known = set(tx.scalars(sa.select(labels.c.key).where(labels.c.queue_id.in_(queue_ids.values()))))
    last: dict[tuple[int, int], tuple[int, int]] = {
        (row.item_id, row.user_id): (row.id, row.revision)
        for row in tx.execute(
            sa.select(labels.c.item_id, labels.c.user_id, labels.c.id, labels.c.revision)
            .where(labels.c.queue_id.in_(queue_ids.values()))
            .order_by(labels.c.revision)
        )
    }
    for place, one in enumerate(given):
        try:
            outputs = [clean(text, "an output").strip() for text in one.outputs]
            prompt = clean(one.prompt, "the prompt")
            if "text" in one.answer:
                clean(one.answer["text"], "the edited text")
        except DataError as error:
            raise DataError(f"label {place + 1}: {error}") from None
        queue, digest = queue_ids[one.kind], content_hash(prompt, outputs, one.reference)
        key = hashlib.sha256(dumps([queue, digest, one.labeler, one.answer]).encode()).hexdigest()
        if key in known:
            continue
        known.add(key)
        if (queue, digest) not in held:
            held[queue, digest] = _add_item(tx, queue, one, prompt, outputs, digest, source, place)
        item = held[queue, digest]
        if one.labeler not in people:
            people[one.labeler] = add_user(tx, one.labeler, None, "labeler", one.group, who)
        user = people[one.labeler]
        before = last.get((item, user))
        values = {
            "item_id": item,
            "queue_id": queue,
            "user_id": user,
            "revision": before[1] + 1 if before else 1,
            "supersedes": before[0] if before else None,
            "key": key,
            "kind": one.kind,
            "status": "given",
            "answer": one.answer,
            "strength": one.strength,
            "seconds": one.seconds,
            "shown_order": list(one.shown_order or ()),
            "labeler_group": one.group,
            "guideline_version": one.guideline_version,
            "content_hash": digest,
            "note": one.note,
            "correct": None,
            "created": time.time(),
        }
        new = insert(tx, labels, values)
        last[item, user] = (new, values["revision"])
        counts[one.kind] += 1
    record(tx, who, "import labels", project=project, source=source, new=counts)
    return counts


def _people(tx: sa.Connection) -> dict[str, int]:
    return {row.name: row.id for row in tx.execute(sa.select(users.c.name, users.c.id))}


def _add_item(
    tx: sa.Connection,
    queue: int,
    one: Given,
    prompt: str,
    outputs: list[str],
    digest: str,
    source: str,
    place: int,
) -> int:
    values = {
        "queue_id": queue,
        "role": "work",
        "position": float(place),
        "prompt": prompt,
        "outputs": outputs,
        "policies": list(one.policies) or [""] * len(outputs),
        "reference": one.reference,
        "split": one.split,
        "source": source,
        "content_hash": digest,
        "sampling": "all",
        "propensity": 1.0,
        "target": 0,
        "taken": 0,
        "created": time.time(),
    }
    return insert(tx, items, values)
