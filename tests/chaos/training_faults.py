"""Trainings that go wrong and data too poor to learn from: a clear line, or a result that is not promoted."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from job import Job
from lab import Lab, Try

FAMILY = "training"
OPEN = {
    "register.min_prompts": 1,
    "register.min_decided": 1,
    "register.min_slice_rate": 0,
}  # the rest decides
GIVEN = {
    "ingest.source": "files",
    "ingest.path": "data/incoming",
    "collect.labelers": "given",
    "evaluate.judges": "[reward-model]",
    "prepare.judge_share": 0.2,
    "prepare.test_share": 0.2,
    "ppo.judge_tolerance": "null",
}


@dataclass(frozen=True)
class Fault:
    """Parameters, and rows of a user where the fault is in the data.

    Attributes:
        name: of the scenario.
        changes: dotted keys and values, over those of the lab's job.
        rows: the keywords of `write_rows`; None for the built-in task.
        says: words of which one must stand in the line, if the run is refused.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, int] | None = None
    says: tuple[str, ...] = ()


FAULTS = (
    Fault("learning rates of 1 in base", {"base.learning_rate": 1, "base.muon_learning_rate": 1}),
    Fault("a learning rate of 1 in sft", {"sft.learning_rate": 1}, says=("learning rate",)),
    Fault("a learning rate of 1 in reward", {"reward.learning_rate": 1}, says=("learning rate",)),
    Fault("a KL that explodes", {"ppo.learning_rate": 1, "ppo.kl_coef": 0, "ppo.max_grad_norm": 1000}),
    Fault("a constant reward", {"ppo.reward_weight": 0, "ppo.missing_eos": 0}),
    Fault("answers of one token", {"ppo.response_length": 1, "evaluate.response_length": 1}),
    Fault("batches larger than the data", {"sft.batch_size": 5000, "reward.batch_size": 5000}),
    Fault("all rankings tied", GIVEN, {"tied": 1}, ("tie",)),
    Fault("one labeler", GIVEN, {"labelers": 1}),
    Fault("two demonstrations", GIVEN, {"demonstrations": 2}),
)  # fmt: skip


def write_rows(
    folder: Path, tied: int = 0, labelers: int = 3, demonstrations: int = 120, number: int = 120
) -> None:
    """A user's rows in the contracts; made up."""
    rng = random.Random(1)
    names, things = ["Ann", "Bob", "Cem", "Dot", "Eva"], ["a bicycle", "a tent", "two books", "a lamp"]
    rows: dict[str, list[dict[str, Any]]] = {"demonstrations": [], "comparisons": []}
    for i in range(number):
        name, thing, day = rng.choice(names), rng.choice(things), rng.randint(1, 28)
        prompt = f"{name} lent me {thing} on day {day} and note {i} says so. Who lent what?"
        answers = [f"{name} lent {thing}.", f"{name} lent something.", "Somebody lent something."]
        ranking = [1, 1, 1] if tied else [1, 2, 3]
        if i < demonstrations:
            rows["demonstrations"].append({"prompt": prompt, "completion": answers[0]})
        rows["comparisons"].append(
            {
                "prompt": prompt,
                "completions": answers,
                "ranking": ranking,
                "labeler_id": f"p{rng.randrange(labelers)}",
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    for table, made in rows.items():
        (folder / f"{table}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))


def champions(job: Job) -> list[tuple[str]]:
    """The versions that bear @champion."""
    with sqlite3.connect(job.state / "mlflow.db") as connection:
        return connection.execute(
            "SELECT version FROM registered_model_aliases WHERE alias = 'champion'"
        ).fetchall()


def tried(lab: Lab, fault: Fault) -> Try:
    """Run the job with the fault, from where the undisturbed one had got."""
    job = lab.back("done")
    done = Try(FAMILY, fault.name, " ".join(f"{key}={value}" for key, value in fault.changes.items()))
    if fault.rows is not None:
        write_rows(job.clone / "data/incoming", **fault.rows)
    options = [word for key, value in (OPEN | fault.changes).items() for word in ("--set", f"{key}={value}")]
    ended = job.pipeline("--aside", "--name", "faulty", *options)
    done.said = ended.line
    if ended.code == 0:
        done.outcome, done.said = "not promoted", "the run ends, and the gate does not promote"
    else:
        done.outcome = "refused"
        if not ended.clear:
            done.fault(f"no clear line: {ended.said[-800:]}")
        elif fault.says and not any(word in ended.said for word in fault.says):
            done.fault(f"the line does not name the cause ({' or '.join(fault.says)}): {ended.line}")
    if promoted := champions(job):
        done.fault(f"promoted: {promoted}")
    if left := [what for what, _ in job.processes().values()]:
        done.fault(f"processes left: {left}")
    done.fault(*job.unended())
    return done


def run(lab: Lab) -> Iterator[Try]:
    """The whole family."""
    tries: list[Callable[[], Try]] = [lambda fault=fault: tried(lab, fault) for fault in FAULTS]  # type: ignore[misc]
    for each in tries:
        yield each()
