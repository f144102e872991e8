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

import json

from rlhf.data.contracts import GOLD, JUDGMENT, TABLES
from rlhf.data.errors import DataError
from rlhf.data.files import written_beside
from rlhf.data.files_source import files
from rlhf.data.judgments import read_judgments
from rlhf.data.layouts.layout import Options
from rlhf.data.qa_feedback import qa_feedback
from rlhf.data.reading import Source
from rlhf.data.sources import Raw, source_hash
from rlhf.data.table import write_table
from rlhf.settings import FileSource, Ingest
from rlhf.world.source import builtin
from tasks.runtime.stage import Stage, run

HUMAN = "data/human"  # where people put their judgments


def main(stage: Stage) -> dict[str, float]:
    """Read source and judgments, write their rows and say how many there are; returns the counts."""
    settings = stage.settings.ingest
    raw = load(settings, stage.settings.seed)
    said: list[str] = []
    judgments = [*raw.judgments, *read_judgments(HUMAN, said.append)]
    with written_beside("data/raw") as folder:
        for name, contract in TABLES.items():
            write_table(folder / f"{name}.parquet", contract, raw.tables.get(name, []))
        if raw.quarantine:
            (folder / "quarantine.jsonl").write_text(
                "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in raw.quarantine)
            )
    with written_beside("data/gold") as folder:
        write_table(folder / "facts.parquet", GOLD, raw.gold)
    with written_beside("data/people") as folder:
        write_table(folder / "judgments.parquet", JUDGMENT, judgments)

    counts = {name: len(rows) for name, rows in raw.tables.items()}
    print(
        f"source {settings.source}, {raw.revision}: " + ", ".join(f"{n} {name}" for name, n in counts.items())
    )
    if judgments:
        print(f"{len(judgments)} judgments by people")
    if raw.quarantine:
        print(f"{len(raw.quarantine)} rows in quarantine, in data/raw/quarantine.jsonl")
    for note in (*raw.notes, *said):
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
    paths = [source.path for source in file_sources(settings)]
    revision = source_hash(paths)
    if settings.sha256 not in (None, revision):
        raise DataError(
            f"{paths[0]}: sha256 is {revision}, ingest.sha256 says {settings.sha256}: the data changed; "
            "put the new hash there if that is meant"
        )
    if settings.source == "qa-feedback":
        return qa_feedback(paths[0])
    return files(file_sources(settings), revision)


def file_sources(settings: Ingest) -> list[Source]:
    """The sources that the settings name: those of `ingest.sources`, or that of `ingest.path`.

    Raises:
        DataError: both are set, or neither.
    """
    if settings.sources and settings.path is not None:
        raise DataError("ingest.path and ingest.sources both name data; keep one of them")
    if settings.path is None and not settings.sources:
        raise DataError(f"ingest.path is not set; source {settings.source} needs the path of its data")
    named: list[Ingest | FileSource] = [*settings.sources] or [settings]
    return [
        Source(
            path=str(entry.path),
            name=getattr(entry, "name", None),
            layout=entry.layout,
            columns=entry.columns,
            split=getattr(entry, "split", None),
            weight=getattr(entry, "weight", 1.0),
            unreadable=entry.unreadable,
            options=Options(
                direction=entry.direction,
                aspects=entry.aspects,
                words=entry.words,
                prompt=entry.prompt,
                outputs=entry.outputs,
                edit=entry.edit,
                keep=entry.keep,
            ),
        )
        for entry in named
    ]


if __name__ == "__main__":
    run("ingest", main)
