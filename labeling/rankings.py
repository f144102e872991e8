"""The rankings of a version of the label store: what the stage `collect` takes, and a run checks first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labeling.contracts import rows_hash, tables
from labeling.store import Store
from rlhf.data.errors import DataError
from rlhf.data.plural import plural


def stored_rankings(
    url: str,
    project: str,
    version: int,
    sha256: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Rows of the contract COMPARISON, as people gave them in the labeling app.

    Args:
        url: the store's database, as SQLAlchemy writes it; it is not made.
        project: the project's name.
        version: labels up to this version.
        sha256: what `rows_hash` of the rows must be; None takes any.
        say: gets a line where the version holds votes, which are not read.

    Raises:
        DataError: there is no such store, project or version, or it holds no rankings, only ties, or other
            rankings than those of the hash.
    """
    store = Store(url, create=False)
    try:
        with store.read() as tx:
            stored = tables(tx, project, version)
    finally:
        store.close()
    rows, votes = stored["comparisons"], stored["votes"]
    where = f"{store.url}: project {project!r}, version {version}"
    not_read = (
        f"{len(votes)} votes are not trained on from the store: export them and bring the file to ingest "
        "(ingest.source: files)"
    )
    if not rows:
        beside = f"; its {not_read}" if votes else ""
        raise DataError(
            f"{where}: it holds no rankings; compare, rank or edit outputs in the labeling app{beside}"
        )
    if votes:
        say(f"{where}: {not_read}")
    if sha256 not in (None, rows_hash(rows)):
        raise DataError(
            f"{where}: the rankings' sha256 is {rows_hash(rows)}, the run asks for {sha256}: this is another "
            "store; name the right one in LABELING_DB"
        )
    if all(len(set(row["ranking"]) - {None}) == 1 for row in rows):
        raise DataError(
            f"{where}: {plural(len(rows), 'ranking')}, and nothing but ties, which say nothing about what is "
            "better; label more"
        )
    return rows
