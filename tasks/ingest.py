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

from pathlib import Path

from rlhf.data.contracts import GOLD, JUDGMENT, TABLES
from rlhf.data.errors import DataError
from rlhf.data.files import written_beside
from rlhf.data.files_source import QUARANTINE, Written, files, write_files
from rlhf.data.hub import local_path
from rlhf.data.judgments import read_judgments
from rlhf.data.layouts.layout import Options
from rlhf.data.plural import plural
from rlhf.data.qa_feedback import qa_feedback
from rlhf.data.reading import Source
from rlhf.data.sources import Raw, Rows, source_hash
from rlhf.data.table import read_table, write_table
from rlhf.settings import FileSource, Ingest
from rlhf.world.source import builtin
from tasks.runtime.stage import Stage, run

HUMAN = "data/human"  # where people put their judgments


def main(stage: Stage) -> dict[str, float]:
    """Read source and judgments, write their rows and say how many there are; returns the counts."""
    settings = stage.settings.ingest
    with written_beside("data/raw") as folder:
        told, gold, revision = _write(settings, stage.settings.seed, folder)
        said: list[str] = []
        judgments = [*told.judgments, *read_judgments(HUMAN, said.append)]
    with written_beside("data/gold") as folder:
        write_table(folder / "facts.parquet", GOLD, gold)
    with written_beside("data/people") as folder:
        write_table(folder / "judgments.parquet", JUDGMENT, judgments)

    rows = ", ".join(f"{count} {name}" for name, count in told.rows.items())
    print(f"source {settings.source}, {revision}: {rows}")
    if judgments:
        print(f"{plural(len(judgments), 'judgment')} by people")
    if told.quarantined:
        print(f"{plural(told.quarantined, 'row')} in quarantine, in data/raw/{QUARANTINE}")
    for note in (*told.notes, *said):
        print(note)
    contracts = {f"data/raw/{name}.parquet": contract for name, contract in TABLES.items()}
    for path, contract in (contracts | {"data/people/judgments.parquet": JUDGMENT}).items():
        if table := read_table(path, contract):
            stage.log_dataset(path, table, context="ingest")
    counts = told.rows | {"judgments": len(judgments), "quarantined": told.quarantined}
    return {f"rows/{name}": count for name, count in counts.items()}


def _write(settings: Ingest, seed: int, folder: Path) -> tuple[Written, Rows, str]:
    """Write the tables of the source; returns what was written, the true facts, and what tells its state."""
    if settings.source == "files":
        revision = f"sha256 {_pinned(settings)}"
        return write_files(file_sources(settings), folder), [], revision
    raw = load(settings, seed)
    tables = {name: raw.tables.get(name, []) for name in TABLES}
    for name, contract in TABLES.items():
        write_table(folder / f"{name}.parquet", contract, tables[name])
    counts = {name: len(rows) for name, rows in tables.items()}
    return Written(counts, raw.judgments, 0, raw.notes), raw.gold, raw.revision


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
    revision = _pinned(settings)
    if settings.source == "qa-feedback":
        return qa_feedback(file_sources(settings)[0].path)
    return files(file_sources(settings), revision)


def _pinned(settings: Ingest) -> str:
    """The hash of the data, which is the one that the settings pin, if they pin one.

    Raises:
        DataError: nothing is there, or it is other data.
    """
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
    return revision


def file_sources(settings: Ingest) -> list[Source]:
    """The sources that the settings name: those of `ingest.sources`, or that of `ingest.path`.

    Raises:
        DataError: both are set, or neither; or a data set on the Hub cannot be fetched.
    """
    if settings.sources and settings.path is not None:
        raise DataError("ingest.path and ingest.sources both name data; keep one of them")
    if settings.path is None and not settings.sources:
        raise DataError(f"ingest.path is not set; source {settings.source} needs the path of its data")
    named: list[Ingest | FileSource] = [*settings.sources] or [settings]
    return [
        Source(
            path=local_path(str(entry.path), entry.revision),
            name=getattr(entry, "name", None) or (str(entry.path) if entry.revision else None),
            layout=entry.layout,
            columns=entry.columns,
            split=getattr(entry, "split", None),
            weight=getattr(entry, "weight", 1.0),
            best_answers=entry.best_answers,
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
