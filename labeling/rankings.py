"""The rankings of a version of the label store: what the stage `collect` takes, and a run checks first."""

from __future__ import annotations

from typing import Any

from labeling.contracts import rows_hash, tables
from labeling.store import Store
from rlhf.data.errors import DataError


def stored_rankings(url: str, project: str, version: int, sha256: str | None = None) -> list[dict[str, Any]]:
    """Rows of the contract COMPARISON, as people gave them in the labeling app.

    Args:
        url: the store's database, as SQLAlchemy writes it; it is not made.
        project: the project's name.
        version: labels up to this version.
        sha256: what `rows_hash` of the rows must be; None takes any.

    Raises:
        DataError: there is no such store, project or version, or it holds no rankings, only ties, or other
            rankings than those of the hash.
    """
    store = Store(url, create=False)
    try:
        with store.read() as tx:
            rows = tables(tx, project, version)["comparisons"]
    finally:
        store.close()
    where = f"{store.url}: project {project!r}, version {version}"
    if not rows:
        raise DataError(f"{where}: it holds no rankings; compare, rank or edit outputs in the labeling app")
    if sha256 not in (None, rows_hash(rows)):
        raise DataError(
            f"{where}: the rankings' sha256 is {rows_hash(rows)}, the run asks for {sha256}: this is another "
            "store; name the right one in LABELING_DB"
        )
    if all(len(set(row["ranking"]) - {None}) == 1 for row in rows):
        raise DataError(
            f"{where}: all {len(rows)} rankings are ties, which say nothing about what is better; label more"
        )
    return rows
