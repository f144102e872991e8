"""Read all that comes from outside, once and first: `python -m tasks.ingest`.

Reads the source that params name and the judgments by people in data/human. Writes data/raw (corpus,
demonstrations, prompts, comparisons), data/gold (the true facts of the built-in posts; no rows for any other
source) and data/people (the judgments; no rows where there are none). No other stage reads a user's rows, so
that what is wrong with one ends a run in its first seconds.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

from collections.abc import Callable

from rlhf.data.contracts import GOLD, JUDGMENT, TABLES
from rlhf.data.errors import DataError
from rlhf.data.files import written_beside
from rlhf.data.folder import files
from rlhf.data.judgments import read_judgments
from rlhf.data.qa_feedback import qa_feedback
from rlhf.data.sources import Raw, source_hash
from rlhf.data.table import write_table
from rlhf.settings import Ingest
from rlhf.world.source import builtin
from tasks.runtime.stage import Stage, run

HUMAN = "data/human"  # where people put their judgments


def main(stage: Stage) -> dict[str, float]:
    """Read source and judgments, write their rows and say how many there are; returns the counts."""
    settings = stage.settings.ingest
    raw, judgments = load(settings, stage.settings.seed), read_judgments(HUMAN)
    with written_beside("data/raw") as folder:
        for name, contract in TABLES.items():
            write_table(folder / f"{name}.parquet", contract, raw.tables[name])
    with written_beside("data/gold") as folder:
        write_table(folder / "facts.parquet", GOLD, raw.gold)
    with written_beside("data/people") as folder:
        write_table(folder / "judgments.parquet", JUDGMENT, judgments)

    counts = {name: len(rows) for name, rows in raw.tables.items()}
    print(
        f"source {settings.source}, {raw.revision}: " + ", ".join(f"{n} {name}" for name, n in counts.items())
    )
    if judgments:
        print(f"{HUMAN}: {len(judgments)} judgments by people")
    for note in raw.notes:
        print(note)
    written = {f"data/raw/{name}.parquet": rows for name, rows in raw.tables.items()}
    written["data/people/judgments.parquet"] = judgments
    for path, rows in written.items():
        if rows:
            stage.log_dataset(path, rows, context="ingest")
    return {f"rows/{name}": count for name, count in (counts | {"judgments": len(judgments)}).items()}


def load(settings: Ingest, seed: int) -> Raw:
    """Rows from the source that the settings name.

    Raises:
        DataError: a missing or unexpected path, unreadable rows, or a hash other than `settings.sha256`.
    """
    if settings.source == "builtin":
        if settings.path is not None or settings.sha256 is not None:
            raise DataError(
                "ingest.path and ingest.sha256 are for sources that read files; builtin reads none"
            )
        return builtin(settings, seed)
    if settings.chat:
        raise DataError(
            f"ingest.chat tells the posts of builtin as conversations; source {settings.source} says itself "
            "which rows are conversations, by their messages"
        )
    if settings.path is None:
        raise DataError(f"ingest.path is not set; source {settings.source} needs the path of its data")
    revision = source_hash(settings.path)
    if settings.sha256 not in (None, revision):
        raise DataError(
            f"{settings.path}: sha256 is {revision}, ingest.sha256 says {settings.sha256}: the data changed; "
            "put the new hash there if that is meant"
        )
    readers: dict[str, Callable[[str], Raw]] = {"files": files, "qa-feedback": qa_feedback}
    return readers[settings.source](settings.path)


if __name__ == "__main__":
    run("ingest", main)
